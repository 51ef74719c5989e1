"""A server for conversations: OpenAI's HTTP endpoints and its realtime protocol, and a page that speaks it.

Reading order: `server` (settings, start and end), `timed_http` (time for headers), `app` (routes), `guard` (who may
come in), `limits`, `errors`; the model's side: `turns` (one step at a time, in turn), `shared_steps` (those of several
made as one), `jobs` (work in a thread, its items in asyncio), `engine` (with `prompts`, `token_stream` and `pace`);
what clients send: `fields`, `media`; and the rooms `endpoints` and `realtime`.
"""
