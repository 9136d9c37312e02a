#!/usr/bin/env bash
# Makes .venv with Python >= 3.12 and installs the project into it (editable, versions of constraints.txt).
# A second call sees the stamp and returns at once; what an interrupted call left behind is made anew.
#
#   bash scripts/setup.sh
#   PYTHON=/path/to/python3.12 bash scripts/setup.sh      makes a new .venv with that interpreter
#
# Only what bash 3.2 (macOS) knows. Nothing runs pip's console scripts: they break in folders with spaces.
set -euo pipefail
unset CDPATH PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX VIRTUAL_ENV
export PIP_USER=0
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly LOG=.venv-setup.log STAMP=.venv/setup-stamp UNFINISHED=.venv/setup-unfinished
readonly VENV_PYTHON=.venv/bin/python
pip_pid=""

say() { printf 'setup: %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

free_mb() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }'; }

# --- Which accelerator is here, and so which extras to install.

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

has_tpu() {
    [ -e /dev/accel0 ] && return 0
    ls /dev/vfio/[0-9]* >/dev/null 2>&1 || return 1
    local device # a PCI device of Google's (1ae0) that is not its network card (0042)
    for device in /sys/bus/pci/devices/*; do
        [ "$(cat "$device/vendor" 2>/dev/null)" = 0x1ae0 ] || continue
        [ "$(cat "$device/device" 2>/dev/null)" = 0x0042 ] || return 0
    done
    return 1
}

extras() {
    if has_gpu; then echo dev,cuda; elif has_tpu; then echo dev,tpu; else echo dev; fi
}

# Changes when the environment has to be installed again, also because the folder was moved.
fingerprint() {
    { cat pyproject.toml constraints.txt scripts/setup.sh; pwd -P; extras; "$1" -VV; } | cksum
}

# --- A Python that is new enough.

new_enough() {
    local test='import sys; sys.exit(sys.version_info < (3, 12) or sys.implementation.name != "cpython")'
    "$1" -c "$test" </dev/null >/dev/null 2>&1
}

can_make_venv() { "$1" -c 'import ensurepip, ssl, venv' </dev/null >/dev/null 2>&1; }

version_of() { "$1" -c 'import platform; print(platform.python_version())' </dev/null 2>/dev/null; }

# One a line, best first. A name can stand for several files on the PATH, and a pyenv shim for none at all.
candidates() {
    local minor
    for minor in 12 13 14; do
        type -aP "python3.$minor" || true
        ls -d "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/3.$minor".*/bin/python 2>/dev/null || true
    done
    type -aP python3 || true
    type -aP python || true
    if command -v uv >/dev/null; then
        uv python find '>=3.12,<3.15' 2>/dev/null || true
    fi
}

# Sets python_bin, or fails with the one sentence that says what is missing.
find_python() {
    local candidate found="" without_venv=""
    python_bin=""
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON='$PYTHON' is not Python 3.12 or newer (found: $(version_of "$PYTHON" || echo "nothing that runs")); name another interpreter"
        python_bin=$PYTHON
        return
    fi
    while IFS= read -r candidate; do
        if new_enough "$candidate"; then
            can_make_venv "$candidate" && python_bin=$candidate && return
            without_venv=${without_venv:-$candidate}
        elif [ -z "$found" ]; then
            found=$(version_of "$candidate" || true)
            [ -z "$found" ] || found=", found only Python $found ($candidate)"
        fi
    done < <(candidates)
    if command -v uv >/dev/null; then
        say "no Python 3.12 here yet, asking uv for one"
        if uv python install 3.12 >>"$LOG" 2>&1; then
            python_bin=$(uv python find 3.12 2>>"$LOG") && new_enough "$python_bin" && return
        fi
    fi
    if [ -n "$without_venv" ]; then
        fail "'$without_venv' lacks the modules that make an environment; install them (Debian and Ubuntu: apt install python3-venv) and run the same command again"
    fi
    fail "Python 3.12 or newer is needed$found; install it (for example with 'pyenv install 3.12' or 'uv python install 3.12') or name one with PYTHON=/path/to/python3.12, and run the same command again"
}

# --- Installing.

# Whether .venv can be installed into as it is: made to the end, by a Python that still runs and is new enough.
venv_is_sound() {
    [ -e "$STAMP" ] || [ ! -e "$UNFINISHED" ] || return 1
    new_enough "$VENV_PYTHON" && "$VENV_PYTHON" -m pip --version >/dev/null 2>&1
}

another_python_is_asked_for() {
    local base='import sys; print(sys.base_prefix)'
    [ -n "${PYTHON:-}" ] && [ "$("$PYTHON" -c "$base" 2>/dev/null)" != "$("$VENV_PYTHON" -c "$base" 2>/dev/null)" ]
}

make_venv() {
    local needed=2000 free
    case $(extras) in *cuda*) needed=9000 ;; esac
    free=$(free_mb .)
    if [ -n "$free" ] && [ "$free" -lt "$needed" ]; then
        fail "the disk that holds '$PWD' is too full: $free MB free, about $needed MB needed; free some space and run the same command again"
    fi
    find_python
    python_bin=$("$python_bin" -c 'import sys; print(sys.executable)') # what a pyenv shim stands for
    say "making .venv with Python $(version_of "$python_bin") ($python_bin)"
    rm -rf .venv
    mkdir .venv
    touch "$UNFINISHED"
    "$python_bin" -m venv .venv >>"$LOG" 2>&1 || fail "$(explain "making .venv")"
}

# What pip is doing, by its log; while it installs, how many of the packages are there.
doing() {
    local line all there
    line=$({ grep -E '^ *(Collecting|Downloading|Using cached|Installing|Building|Preparing)' "$LOG" || true; } | tail -n 1)
    case $line in
    "Installing collected packages:"*)
        all=$(printf '%s' "$line" | tr -cd , | wc -c)
        there=$(ls -d .venv/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l)
        printf 'Installing: %d of %d packages' "$((there > all + 1 ? all + 1 : there))" "$((all + 1))"
        ;;
    *)
        printf '%s' "$line" |
            sed -E 's/^ *//; s/ \((from|pyproject|[0-9.]+ [kMG]B).*//; s/-[0-9][^ ]*\.(whl|tar\.gz).*//' | cut -c 1-60
        ;;
    esac
}

# Runs pip behind a line of progress: rewritten each second on a terminal, a new one every 15 s elsewhere.
# Modules are compiled when they are first imported: most of what is installed never is.
run_pip() {
    local begin=$SECONDS shown=$SECONDS
    "$VENV_PYTHON" -m pip install --editable ".[$1]" --constraint constraints.txt \
        --no-input --no-compile --disable-pip-version-check --progress-bar off </dev/null >>"$LOG" 2>&1 &
    pip_pid=$!
    while kill -0 "$pip_pid" 2>/dev/null; do
        sleep 1
        if [ -t 1 ]; then
            printf '\r\033[Ksetup: %3d s  %s' "$((SECONDS - begin))" "$(doing)"
        elif [ "$((SECONDS - shown))" -ge 15 ]; then
            shown=$SECONDS
            say "$((SECONDS - begin)) s  $(doing)"
        fi
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
    wait "$pip_pid"
}

# One sentence for the failure that the log shows. $1: what was being done.
explain() {
    local free temporary=${TMPDIR:-/tmp} again="run the same command again" missing
    free=$(free_mb .)
    if grep -qiE 'no space left on device|errno 28|disk quota exceeded|errno 122' "$LOG" || [ "${free:-999}" -lt 50 ]; then
        echo "the disk is full ($free MB free for '$PWD', $(free_mb "$temporary") MB for temporary files in '$temporary'); free some space and $again (log: $LOG)"
    elif grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|ConnectionResetError|Connection refused|name resolution|Could not fetch URL|from versions: none' "$LOG"; then
        echo "the package index is out of reach; check the network connection, proxy and pip settings and $again (log: $LOG)"
    elif missing=$(grep -oE 'No matching distribution found for [^ ]+' "$LOG" | tail -n 1) && [ -n "$missing" ]; then
        echo "the package index has no ${missing#No matching distribution found for } for Python $(version_of "$VENV_PYTHON") on $(uname -sm); try another Python with PYTHON=/path/to/python3.12 (log: $LOG)"
    else
        echo "$1 failed: $({ grep -iE 'error|killed' "$LOG" || tail -n 1 "$LOG"; } | tail -n 1 | cut -c 1-200) (log: $LOG)"
    fi
}

stop() {
    [ -z "$pip_pid" ] || kill "$pip_pid" 2>/dev/null || true
    printf '\nsetup: interrupted; run the same command again to go on\n' >&2
    exit 130
}

main() {
    local wanted packages
    if ! another_python_is_asked_for && [ -x "$VENV_PYTHON" ] && wanted=$(fingerprint "$VENV_PYTHON" 2>/dev/null) &&
        [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    trap stop INT TERM
    [ -w . ] || fail "the folder '$PWD' cannot be written to; make it writable or clone the project elsewhere"
    : >"$LOG"
    if another_python_is_asked_for || ! venv_is_sound; then make_venv; fi
    touch "$UNFINISHED"
    rm -f "$STAMP"
    packages=$(extras)
    say "installing the packages ($packages), a few minutes the first time; log: $LOG"
    run_pip "$packages" || fail "$(explain "installing the packages")"
    fingerprint "$VENV_PYTHON" >"$STAMP"
    rm -f "$UNFINISHED"
    say "done in $SECONDS s"
}

main
