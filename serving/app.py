"""The application: which path leads where."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from .endpoints.bodies import answer
from .endpoints.chat import complete
from .endpoints.speech import speak
from .endpoints.transcription import transcribe
from .engine import Engine
from .errors import ClientError, server_failure
from .guard import Guard
from .realtime.connection import Sessions

PAGE = Path(__file__).parent / "page"


def make_app(engine: Engine, api_key: str | None = None) -> Starlette:
    """Return the ASGI application of a server.

    Args:
        engine ([`Engine`]): The model. It is closed when the application ends.
        api_key (`str`, *optional*): What clients must send. Without one only names of the own machine are answered.
    """

    sessions = Sessions(engine)

    async def health(request: Request) -> Response:
        del request
        return JSONResponse(
            {
                "status": "ok",
                "model": engine.name,
                "sessions": len(sessions.sessions),
                "jobs": engine.workers.num_jobs,
                "real_time_factor": engine.pace.real_time_factor,
                "speaks_in_stream": engine.speaks_in_stream,
            }
        )

    async def models(request: Request) -> Response:
        del request
        return JSONResponse({"object": "list", "data": [engine.describe()]})

    async def model(request: Request) -> Response:
        engine.require_model(request.path_params["name"])
        return JSONResponse(engine.describe())

    def post(path: str, handle: Callable[[Engine, Request], Awaitable[Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await answer(request, engine.limits.max_body_bytes, lambda whole: handle(engine, whole))

        return Route(path, endpoint, methods=["POST"])

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        engine.close()

    return Starlette(
        routes=[
            Route("/health", health),
            Mount(
                "/v1",
                routes=[
                    Route("/models", models),
                    Route("/models/{name:path}", model),
                    post("/chat/completions", complete),
                    post("/audio/speech", speak),
                    post("/audio/transcriptions", transcribe),
                    WebSocketRoute("/realtime", sessions.serve),
                ],
            ),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(Guard, api_key=api_key)],
        exception_handlers={ClientError: _tell, ClientDisconnect: _drop, HTTPException: _refuse, Exception: _hide},
        lifespan=lifespan,
    )


async def _tell(request: Request, error: Exception) -> Response:
    del request
    return error.to_response() if isinstance(error, ClientError) else server_failure().to_response()


async def _drop(request: Request, error: Exception) -> Response:
    """Answer a client that has left: nothing of it is sent."""
    del request, error
    return Response(status_code=400)


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer what starlette refuses: a path or a method that this server does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = (error.headers if isinstance(error, HTTPException) else None) or {}
    if status == 404:
        told = ClientError(
            f"The path must be one of this server's, got {request.url.path[:100]!r}.", code="not_found", status=404
        )
    elif status == 405:
        allowed = ", ".join(sorted(headers.get("Allow", "GET, HEAD").split(", ")))
        told = ClientError(
            f"The method must be one of {allowed} for this path, got {request.method[:20]!r}.",
            code="method_not_allowed",
            status=405,
        )
        headers = {"Allow": allowed}
    elif status < 500:
        told = ClientError("The request must be one that this server can read.", code="invalid_request", status=status)
    else:
        told = server_failure()
    response = told.to_response()
    response.headers.update(headers)
    return response


async def _hide(request: Request, error: Exception) -> Response:
    del request, error  # which starlette raises on, into the log
    return server_failure().to_response()
