"""A stand-in for the Hub: the few requests of its HTTP API that pushing a model makes, answered on this machine."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789012345678901234567890123456789"


class Hub(ThreadingHTTPServer):
    """Keeps what is pushed.

    Args:
        files (`dict[str, dict[str, bytes]]`): Of each repository, what is there already; of branches other than main
            under `name@branch`.
    """

    def __init__(self, files=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {name: dict(content) for name, content in (files or {}).items()}
        self.requests: list[str] = []
        self.commits: list[dict] = []

    @property
    def endpoint(self) -> str:
        """The value of `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        """Say nothing."""

    def answer(self, status: int, body: object = None, **headers: str) -> None:
        """Send JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        """Give a file, or what is known of a repository."""
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0].strip("/").split("/")
        if path[:2] == ["api", "models"] and "/".join(path[2:4]) in self.server.files:
            self.answer(200, {"id": "/".join(path[2:4]), "sha": COMMIT, "siblings": []})
            return
        repo = "/".join(path[:2])
        branch = f"{repo}@{path[3]}" if path[2:3] == ["resolve"] else repo
        commit = COMMIT if branch in (repo, f"{repo}@main") else COMMIT[::-1]
        content = self.server.files.get(branch, self.server.files.get(repo, {})).get("/".join(path[4:]))
        if path[2:3] != ["resolve"] or content is None:
            self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        self.answer(200, content, ETag=f'"{hash(content):x}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def do_POST(self):
        """Make repositories and branches, and take commits."""
        self.server.requests.append(f"{self.command} {self.path}")
        text = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0].strip("/").split("/")
        if path == ["api", "repos", "create"]:
            name = f"somebody/{json.loads(text)['name']}"
            self.server.files.setdefault(name, {})
            self.answer(200, {"url": f"{self.server.endpoint}/{name}", "id": name, "name": name})
        elif path == ["api", "validate-yaml"]:
            self.answer(200, {"errors": [], "warnings": []})
        elif path[4] == "branch":
            self.answer(200, {})
        elif path[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(text)["files"]
            ]
            self.answer(200, {"files": files})
        elif path[4] == "commit":
            self.take_commit("/".join(path[2:4]), path[5], [json.loads(line) for line in text.splitlines()])
        else:
            self.answer(404, {"error": "not here"})

    def take_commit(self, repo: str, branch: str, lines: list[dict]) -> None:
        """Keep the files of a commit."""
        files = {}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.server.files[repo] |= files
        self.server.commits.append({"repo": repo, "branch": branch, "files": files, "header": lines[0]["value"]})
        url = f"{self.server.endpoint}/{repo}/commit/{COMMIT}"
        self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})


@contextmanager
def stand_in(files=None):
    """Run the stand-in while the block runs."""
    hub = Hub(files)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
