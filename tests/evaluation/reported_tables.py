"""Tables whose names and lines are as bad as can be, and the pages made of them."""

from __future__ import annotations

from dataclasses import replace

from erc_llm.evaluation.evaluation_report import sections, title
from erc_llm.evaluation.page import draw, render_html
from erc_llm.evaluation.references import constant_reference, difference
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Predictions
from tests.evaluation.compared_tables import SPEAKERS, changed, table

SCRIPT = "<script>document.title = 'changed'</script>"
HEBREW = "שרה כהן"
LINES = (
    f"{SCRIPT}<img src=x onerror=\"document.title = 'changed'\">",
    "</td></tr></table></main><h1>no</h1><style>* { display: none }</style>",
    "word " * 9_000,
    "w" * 9_000,
    "\u202eturned round\u202c \u200fand marked",
    "שלום! מה שלומך?",
    "{{ 7 * 7 }} {% raw %} &lt; $x^2$ \x1b[31m\n## no",
)
NAMES = ("<b onclick=x>Ann</b>", HEBREW, "C" * 300, "\u202eDee\u202c")
SYSTEM = f"tuned </title>{SCRIPT} {HEBREW} (2): 45"


def hostile() -> Predictions:
    """The table of `compared_tables` with other names and lines, and the same answers."""
    given = table()
    called = dict(zip(SPEAKERS, NAMES, strict=True))
    others = {
        "text": [LINES[i % len(LINES)] for i in range(len(given))],
        "speakers": [[called[name] for name in speakers] for speakers in given.speakers or ()],
    }
    return changed(replace(given, info=replace(given.info, system=SYSTEM)), **others)


def page_of(given: Predictions, draws: int = 100) -> str:
    """The report of a table as HTML, with a difference to a reference."""
    evaluation = evaluate(given, draws=draws)
    against = difference(given, constant_reference(given, "neutral"), draws=draws)
    return render_html(title(evaluation), draw(sections(given, evaluation, [against]), "report"))
