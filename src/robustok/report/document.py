"""An HTML document that needs no other file."""

from importlib.resources import files

from robustok.report.markup import Markup, join

# Nothing comes in from outside: a page that tried would be stopped, and say so in the browser's console.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, *body: Markup) -> str:
    """The whole document, with the styles inside it."""
    style = files("robustok.report").joinpath("style.css").read_text(encoding="utf-8")
    content = "\n".join(body)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{join(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
{content}
</body>
</html>
"""
