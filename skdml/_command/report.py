"""The printed table of scores."""

from skdml._command.comparison import Result

COLUMNS = {
    "k-NN acc.": "{:.3f}",
    "AMI": "{:.3f}",
    "recall@1": "{:.3f}",
    "MAP@R": "{:.3f}",
    "AUC": "{:.3f}",
    "EER": "{:.3f}",
    "fit s": "{:.1f}",
}


def format_results(title: str, results: dict[str, Result]) -> str:
    """Format results as a Markdown table with a title."""
    shown = {c: form for c, form in COLUMNS.items() if c in next(iter(results.values()))}
    rows = [["distance", *shown]]
    for name, result in results.items():
        rows.append([name, *(form.format(result[column]) for column, form in shown.items())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [f"{'-' * (width - 1)}{':' if i else '-'}" for i, width in enumerate(widths)]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = [
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([title, "", *lines])
