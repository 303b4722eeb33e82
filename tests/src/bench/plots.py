"""CPU time for each request as curves, drawn by gnuplot."""

import subprocess

from .machine import Failed

COLOURS = {"gateway": "#d1495b", "before": "#8d5a97", "haproxy": "#00798c", "haproxy-128k": "#30a14e"}


def draw(grid, folder):
    """One SVG file for each kind of request in the grid; gives their names."""
    files = []
    kinds = list(dict.fromkeys(row.series for row in grid.rows if row.x is not None))
    for kind in kinds:
        rows = [row for row in grid.rows if row.series == kind and row.x is not None]
        curves = {path: curve(grid, rows, path) for path in grid.paths}
        curves = {path: points for path, points in curves.items() if len(points) > 1}
        if not curves:
            continue
        file = folder / f"{grid.name}-{''.join(c if c.isalnum() else '-' for c in kind)}.svg"
        done = subprocess.run(["gnuplot"], input=script(grid, kind, rows, curves, file), capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"gnuplot: {done.stderr.strip()}")
        files.append(file)
    return files


def curve(grid, rows, path):
    """x, median, least and greatest of each point."""
    found = [(row.x, grid.spread(row.name, path, "proxy")) for row in rows]
    return [(x, spread.median, spread.least, spread.most) for x, spread in found if spread]


def tick(value):
    for size, unit in [(1 << 20, "Mi"), (1 << 10, "Ki")]:
        if value >= size and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def script(grid, kind, rows, curves, file):
    label = tick if "bytes" in grid.x else str
    ticks = ", ".join(f'"{label(row.x)}" {row.x}' for row in rows)
    top = max(most for points in curves.values() for _, _, _, most in points) * 1.1
    lines = [
        "set terminal svg size 720,420 font 'sans-serif,13' background '#ffffff'",
        f"set output '{file}'",
        f"set title '{grid.title}: {kind}'",
        f"set xlabel '{grid.x}'",
        "set ylabel 'CPU µs of the proxy for each request'",
        "set logscale x 2",
        f"set xrange [{rows[0].x / 1.3}:{rows[-1].x * 1.3}]",
        f"set xtics ({ticks})",
        # Large requests take a hundred times as much as small ones.
        f"set yrange [0:{top}]" if "bytes" not in grid.x else "set logscale y 10",
        "set grid ytics lc rgb '#dddddd'",
        "set border 3 lc rgb '#444444'",
        "set tics nomirror out",
        "set key outside right top reverse Left",
    ]
    for number, points in enumerate(curves.values()):
        lines += [f"$curve{number} << END", *(" ".join(map(str, point)) for point in points), "END"]
    curve = "$curve{0} with yerrorlines lw 2 pt 7 ps 0.5 lc rgb '{1}' title '{2}'"
    drawn = [curve.format(n, COLOURS.get(path, "#777777"), path) for n, path in enumerate(curves)]
    return "\n".join([*lines, "plot " + ", ".join(drawn), ""])
