#!/usr/bin/env python3
"""Write the generated parts of the site into build/docs, where pages of docs/ include them.

settings.md: every key of the configuration; bench_settings.md: those of `recsys bench`; walkthrough.md: the
notebook, run from its first cell to its last; peers.md: the comparison with its picture.
"""

import ast
import base64
import contextlib
import hashlib
import html
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipelines.config.bench import Bench  # noqa: E402
from pipelines.config.config import Config  # noqa: E402

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a section that may be left out, too."""
    found = [one for one in (annotation, *get_args(annotation)) if is_section(one)]
    return found[0] if found and get_origin(annotation) is not tuple else None


def choices(annotation: Any) -> str:
    """What a Literal allows, as a list; nothing for other types."""
    literals = [one for one in (annotation, *get_args(annotation)) if get_origin(one) is Literal]
    return "".join(f" One of {', '.join(f'`{value}`' for value in get_args(one))}." for one in literals)


def default_of(field: Any) -> str:
    """The default as TOML writes it; nothing where a key without a value is left out."""
    value = field.get_default(call_default_factory=True)
    if field.is_required() or value is None:
        return "required" if field.is_required() else ""
    plain = json.dumps(
        value, default=lambda other: dict(other) if isinstance(other, BaseModel) else str(other)
    )
    return f"`{plain}`"


def row(name: str, field: Any) -> str:
    meaning = html.escape(field.description or "", quote=False).replace("|", "\\|").replace("*", "\\*")
    meaning = meaning[:1].upper() + meaning[1:] + "." if meaning else ""
    return f"| `{name}` | {default_of(field)} | {meaning}{choices(field.annotation)} |"


def settings(model: type[BaseModel]) -> str:
    """A table for the keys at the top, and one for each section."""
    head = ["| key | default | meaning |", "|---|---|---|"]
    fields = model.model_fields
    top = [row(name, field) for name, field in fields.items() if not section_of(field.annotation)]
    parts = ["\n".join(head + top)] if top else []
    for name, field in fields.items():
        section = section_of(field.annotation)
        if section:
            rows = [row(key, each) for key, each in section.model_fields.items()]
            parts += [f"## `[{name}]`", (section.__doc__ or "").split("\n\n")[0], "\n".join(head + rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def fenced(text: str, language: str) -> str:
    return f"````{language}\n{ANSI.sub('', text).rstrip()}\n````"


def picture(data: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def run_cell(source: str, names: dict[str, Any]) -> list[str]:
    """Run a cell as a notebook does: what it prints, the value of its last expression, its pictures."""
    import matplotlib.pyplot as plt

    body = ast.parse(source).body
    last = (
        body.pop() if body and isinstance(body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "walkthrough", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "walkthrough", "eval"), names) if last else None
    parts = [printed.getvalue()] if printed.getvalue() else []
    parts += [] if value is None else [str(value)]
    outputs = [fenced(part, "text") for part in parts]
    for number in plt.get_fignums():
        drawn = io.BytesIO()
        plt.figure(number).savefig(drawn, format="png", dpi=110, bbox_inches="tight")
        outputs.append(picture(drawn.getvalue(), "picture drawn by the cell above"))
    plt.close("all")
    return outputs


def notebook(path: Path) -> str:
    """Run a notebook; its cells and their outputs as Markdown, without the heading, which the page has."""
    import matplotlib as mpl

    mpl.use("Agg")
    parts: list[str] = []
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            print(f"{path.name}: cell {len(parts)}", flush=True)
            parts += [fenced(source, "python"), *run_cell(source, names)]
    return re.sub(r"\A# .*\n*", "", "\n\n".join(parts)) + "\n"


def write_walkthrough(page: Path) -> None:
    """Run the notebook unless `page` is of the same notebook: it takes one and a half minutes."""
    path = ROOT / "examples" / "walkthrough.ipynb"
    mark = f"<!-- {hashlib.sha256(path.read_bytes()).hexdigest()} -->\n"
    if not page.is_file() or not page.read_text(encoding="utf-8").startswith(mark):
        page.write_text(mark + "\n" + notebook(path), encoding="utf-8")


def peers(stem: Path) -> str:
    data = stem.with_suffix(".png").read_bytes()
    return (
        stem.with_suffix(".md").read_text(encoding="utf-8")
        + f"\n{picture(data, 'validation at equal seconds')}\n"
    )


if __name__ == "__main__":
    folder = ROOT / "build" / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        "settings": settings(Config),
        "bench_settings": settings(Bench).replace("\n## ", "\n### "),
        "peers": peers(ROOT / "benchmarks" / "peers_gowalla"),
    }.items():
        (folder / f"{name}.md").write_text(content, encoding="utf-8")
    write_walkthrough(folder / "walkthrough.md")
