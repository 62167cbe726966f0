"""`/docs` of a locked application in a headless Chromium: a picture to look at, and what its page says about locks.

Not a test of the suite, since it needs a browser and Swagger UI's files (`npm pack swagger-ui-dist@5`, unpacked):

    PYTHONPATH=tests python tests/look_at_docs.py --swagger package --picture docs.png
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from servers import serving
from starlette.staticfiles import StaticFiles
from test_locks import RULES, kit_of, nothing

from bartizan import Rule, allow
from bartizan.integrations.fastapi import install

QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1200,3000",
]  # fmt: skip
LOCK = re.compile(r'<button[^>]*class="[^"]*authorization__btn[^"]*"')
OPERATION = re.compile(r'id="operations-default-(\w+)"')


def app_of(swagger: Path) -> FastAPI:
    app = FastAPI(title="A locked application", docs_url=None, redoc_url=None)
    for method in ("GET", "POST", "DELETE"):
        app.add_api_route("/orders/{id}", nothing, methods=[method], operation_id=f"order_{method.lower()}")
    for path in ("/products", "/health", "/both", "/forgotten"):
        app.add_api_route(path, nothing, operation_id=path[1:])

    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="docs",
            swagger_js_url="/swagger/swagger-ui-bundle.js",
            swagger_css_url="/swagger/swagger-ui.css",
            swagger_favicon_url="/swagger/favicon-32x32.png",
            swagger_ui_parameters={"docExpansion": "full", "showExtensions": True, "deepLinking": False},
        )

    app.add_api_route("/docs", docs, include_in_schema=False, response_class=HTMLResponse)
    app.mount("/swagger", StaticFiles(directory=swagger))
    install(app, kit_of().security.gate([*RULES, Rule("GET /swagger/**", allow.untouched())]))
    return app


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swagger", type=Path, required=True, help="the folder with swagger-ui-bundle.js")
    parser.add_argument("--picture", type=Path, default=Path("docs.png"))
    parser.add_argument("--chromium", default="chromium")
    chosen = parser.parse_args()
    with serving(app_of(chosen.swagger)) as port, tempfile.TemporaryDirectory() as profile:

        def looked(*arguments: str) -> str:
            done = subprocess.run(
                [chosen.chromium, *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=15000", *arguments,
                 f"http://127.0.0.1:{port}/docs"],
                capture_output=True, text=True, check=True, timeout=120,
            )  # fmt: skip
            return done.stdout

        page = looked("--dump-dom")
        looked(f"--screenshot={chosen.picture.resolve()}")
    starts = [(found[1], found.start()) for found in OPERATION.finditer(page)]
    ends = [at for _, at in starts[1:]] + [len(page)]
    locked = {name for (name, at), end in zip(starts, ends, strict=True) if LOCK.search(page, at, end)}
    expected = {"order_get", "order_post", "products", "both"}
    sys.stdout.write(f"operations: {', '.join(name for name, _ in starts)}\nlocked: {', '.join(sorted(locked))}\n")
    named = {"order_get", "order_post", "order_delete", "products", "health", "both", "forgotten"}
    refused = page.count("no rule of the gate admits")
    sys.stdout.write(f"refused: {refused}\n")
    return 0 if locked == expected and refused == 2 and {name for name, _ in starts} == named else 1


if __name__ == "__main__":
    sys.exit(main())
