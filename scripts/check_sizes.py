"""Hold the size budget: function p95 <= 40 lines and none above 80, file p95 <= 400 lines."""

import ast
import pathlib
import sys


def p95(values: list[int]) -> int:
    """Return the 95th percentile by rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


def main() -> int:
    """Print what breaks the budget; return 1 when something does."""
    files: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    for path in sorted(pathlib.Path("src").rglob("*.py")):
        text = path.read_text()
        files.append((len(text.splitlines()), str(path)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append((lines, f"{path}:{node.lineno} {node.name}"))
    faults = [f"function above 80 lines: {where} has {lines}" for lines, where in functions if lines > 80]
    if p95([lines for lines, _ in functions]) > 40:
        faults.append(f"function p95 is {p95([lines for lines, _ in functions])}, above 40")
    if p95([lines for lines, _ in files]) > 400:
        faults.append(f"file p95 is {p95([lines for lines, _ in files])}, above 400")
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    sys.stdout.write(
        f"sizes: {len(functions)} functions, p95 {p95([lines for lines, _ in functions])} lines; "
        f"{len(files)} files, p95 {p95([lines for lines, _ in files])} lines\n"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
