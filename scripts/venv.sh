# Sourced by the other scripts: `install_arbench [extra]` makes the virtual environment (ARBENCH_VENV, default .venv)
# and installs this checkout into it; a second call with nothing changed takes about a second.
venv="${ARBENCH_VENV:-$PWD/.venv}"

say() { printf '\n== %s\n' "$*"; }

install_arbench() {
    local extra="${1:-}" target="." stamp wanted
    [ -z "$extra" ] || target=".[$extra]"
    if [ ! -x "$venv/bin/python" ]; then
        say "making a virtual environment in $venv"
        "${PYTHON:-python3}" -m venv "$venv"
    fi
    stamp="$venv/.arbench-${extra:-base}"
    wanted="$PWD $(cat setup.cfg pyproject.toml | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || [ "$(readlink "$venv/.arbench-checkout" 2>/dev/null)" != "$PWD" ]; then
        say "installing arbench${extra:+ and its $extra tools} (PyTorch is large: a few minutes the first time)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$target"
        rm -f "$venv"/.arbench-base "$venv"/.arbench-test
        ln -sfn "$PWD" "$venv/.arbench-checkout"
        echo "$wanted" > "$stamp"
    fi
}
