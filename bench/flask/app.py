"""The visits page as a Flask application, to measure app/ against: the same templates,
the same Redis, one INCR a visit. For the bench only."""

import os

from flask import Flask, render_template
from redis import Redis

app = Flask(__name__)
store = Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
pod = os.environ.get("POD_NAME", "this machine")
node = os.environ.get("NODE_NAME", "an unnamed node")


@app.get("/")
def index():
    number = store.incr("visits:flask")
    return render_template(
        "index.html",
        counted=True,
        number=number,
        grouped=f"{number:,}",
        pod=pod,
        node=node,
        version="on Flask",
    )


@app.get("/healthz")
def healthz():
    return "ok\n"
