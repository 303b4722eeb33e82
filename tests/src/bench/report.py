"""What was measured, as tables for a terminal and for documents."""

from .rounds import Grid

MARKERS = ("<!-- bench -->", "<!-- /bench -->")


def number(spread, form="{:,.0f}"):
    return "-" if spread is None else form.format(spread.median)


def width(spread):
    """How far the values are from their median, in percent of it."""
    if spread is None or not spread.median:
        return "-"
    return f"{max(spread.most - spread.median, spread.median - spread.least) / spread.median:.0%}"


def ratio(spread):
    return "-" if spread is None else f"{spread.median:.2f} ({spread.least:.2f}–{spread.most:.2f})"


def figures(grid, bound):
    head = ["job", "path", "", "IOPS", "±", "MiB/s", "p50 us", "p99 us", "CPU us/request", "±"]
    head += ["server's", "both"] * grid.has_servers()
    rows = []
    for row in grid.rows:
        for path in grid.paths:
            of = lambda field: grid.spread(row.name, path, field)
            if not of("iops"):
                rows.append([row.name, path, *["-"] * (len(head) - 2)])
                continue
            numbers = [number(of("iops")), width(of("iops")), number(of("mib")), number(of("p50")), number(of("p99"))]
            numbers += [number(of("proxy"), "{:,.2f}"), width(of("proxy"))]
            numbers += [number(of(field), "{:,.2f}") for field in ["server", "both"] if grid.has_servers()]
            rows.append([row.name, path, "!" if grid.disturbed(row.name, path, bound) else "", *numbers])
    return head, rows


def compared(grid):
    with_server = {"CPU with the server's": "both"} if grid.has_servers() else {}
    return {"CPU": "proxy", **with_server, "IOPS": "iops", "p99": "p99"}


def comparison(grid):
    """Ratios of two paths, the medians of those in each round, and from the least to the greatest."""
    head = ["job", "ratio", *compared(grid)]
    rows = []
    for row in grid.rows:
        for this, that in grid.pairs:
            ratios = [ratio(grid.ratio(row.name, this, that, field)) for field in compared(grid).values()]
            rows.append([row.name, f"{this} / {that}", *ratios])
    return head, rows


def values(table):
    head = ["", *(head for _, head, _ in table.columns)]
    rows = [
        [name, *(number(table.spread(name, key), form) for key, _, form in table.columns)] for name in table.rows
    ]
    return head, rows


def lined(head, rows, words):
    """Words to the left, numbers to the right. Lines of one job stand together."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for number, row in enumerate([head, *rows]):
        if number > 1 and row[0] != rows[number - 2][0] and words > 1:
            lines.append("")
        cells = [cell.ljust(widths[i]) if i < words else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def plain(result, bound):
    parts = [f"{result.title}\n"]
    if isinstance(result, Grid):
        parts.append(lined(*figures(result, bound), 3))
        if result.pairs:
            parts.append("\n" + lined(*comparison(result), 2))
        ciphers = {path: sample.cipher for (_, path), turns in result.samples.items() for sample in turns.values()}
        if any(ciphers.values()):
            parts.append("\nciphers: " + ", ".join(f"{path} {name}" for path, name in ciphers.items() if name))
    else:
        parts.append(lined(*values(result), 1))
    return "\n".join(parts)


def ruled(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def compact(grid, bound):
    """One line a job: IOPS and CPU of every path; then the ratios."""
    rows = []
    for row in grid.rows:
        cells = []
        for path in grid.paths:
            cpu = grid.spread(row.name, path, "proxy")
            cpu = f" ({number(cpu, '{:,.1f}')})" if cpu else ""
            mark = " !" if grid.disturbed(row.name, path, bound) else ""
            cells.append(number(grid.spread(row.name, path, "iops")) + cpu + mark)
        rows.append([row.name, *cells])
    text = ruled(["IOPS (CPU µs/request)", *grid.paths], rows)
    if not grid.pairs:
        return text
    rows, fields = [], compared(grid)
    del fields["p99"]
    for row in grid.rows:
        cells = []
        for this, that in grid.pairs:
            found = [grid.ratio(row.name, this, that, field) for field in fields.values()]
            cells.append(" · ".join(number(spread, "{:.2f}") for spread in found))
        rows.append([row.name, *cells])
    head = [" · ".join(fields), *(f"{this} / {that}" for this, that in grid.pairs)]
    return f"{text}\n\n{ruled(head, rows)}"


def conditions(ask, machine):
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = f"Medians of {ask.rounds} rounds of {ask.seconds:g} s on {machine['cpus']} CPUs ({machine['cpu']})"
    return f"{text}, Linux {machine['kernel']}, {machine['date']}; {versions}."


def markdown(results, ask, machine, warning):
    lines = [MARKERS[0]]
    for result in results:
        table = compact(result, ask.busy) if isinstance(result, Grid) else ruled(*values(result))
        lines += [f"**{result.title}**", "", table, ""]
    text = conditions(ask, machine) + " Measured with `tests/bench`."
    return "\n".join([*lines, *([warning, ""] if warning else []), text, MARKERS[1]])
