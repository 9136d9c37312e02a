"""Writing annotation files, and reading the names of what they list."""

import csv
import io
import json


def names(source, folder) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in source.paths]


def write(folder, name: str, content) -> str:
    """A file of text, of rows (CSV) or of a value (JSON)."""
    file = folder / name
    if isinstance(content, str):
        file.write_text(content)
    elif isinstance(content, list) and isinstance(content[0], tuple):
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if name.endswith(".tsv") else ",").writerows(content)
        file.write_text(text.getvalue())
    else:
        file.write_text(json.dumps(content))
    return str(file)
