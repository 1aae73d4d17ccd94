"""A bar chart of ratios as SVG, readable on a light and on a dark page; nothing needs to be installed for it."""

from html import escape

from benchmarks.rows import Row

LABELS, BARS, LINE = 250, 420, 22
TEXT, OURS, OTHERS = "#7d8590", "#12a594", "#8da4bd"
PEN = f'stroke="{TEXT}" fill="none"'
MOST = 3.0
"""Times the best of ours at which a bar is cut off."""


def chart(row: Row) -> str:
    """Bars are medians, whiskers the least and the most of the rounds, the dashed line is the reference."""
    figures = row.figures
    ours = [figure.ratio for figure in figures if figure.name.startswith("resilient_ws")]
    largest = min(max(figure.ratio for figure in figures), MOST * max(1.0, *ours))
    scale = BARS / (largest * 1.15)
    height = LINE * (len(figures) + 2) + 10
    kind = "time (less is better)" if row.times else "speed (more is better)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + BARS + 80} {height}" role="img">',
        f'<g font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}">',
        f'<text x="4" y="16" font-weight="600">{escape(row.name)}: {kind}, x {escape(row.who[0].name)}</text>',
    ]
    for number, (name, _, ratio, low, high) in enumerate(figures, 1):
        top = number * LINE + 6
        middle = top + LINE / 2
        length, least, most = (min(value * scale, BARS) for value in (ratio, low, high))
        begin, end = LABELS + least, LABELS + most
        colour = OURS if name.startswith("resilient_ws") else OTHERS
        parts += [
            f'<text x="{LABELS - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABELS}" y="{top + 4}" width="{length:.1f}" height="{LINE - 8}" fill="{colour}"/>',
            f'<path d="M{begin:.1f} {middle}H{end:.1f}M{begin:.1f} {middle - 4}v8M{end:.1f} {middle - 4}v8" {PEN}/>',
            f'<text x="{LABELS + max(length, most) + 6:.1f}" y="{middle + 4}">{ratio:.2f}</text>',
        ]
    at, bottom = LABELS + scale, LINE * (len(figures) + 1) + 10
    parts.append(f'<path d="M{at:.1f} {LINE}V{bottom}" {PEN} stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</g></svg>", ""])
