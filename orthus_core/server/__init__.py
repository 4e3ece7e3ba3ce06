"""A server with OpenAI's HTTP interface: pictures, edits and chat of one open model.

    http_app.py           routes; picture_routes, chat_routes and page_routes answer them
    picture_requests.py   bodies of requests, checked, as rows for the worker; also chat_requests
    event_streams.py      the events of a request's rows, and server-sent events
    model_worker.py       the thread that owns the model; requests join and leave its running batch
    request_guard.py      hosts, tokens, sizes and times that are allowed, for every route
    prometheus.py         counts and times for /metrics
    picture_store.py      pictures that are fetched by URL, and features to continue from
    serving.py            uvicorn, and stopping it gracefully

It needs the packages of the extra `serve`; nothing outside this package imports them.
"""
