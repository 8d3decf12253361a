# What the scripts of this folder need on the machine, and how it gets there. Sourced by them, not run.

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Prints the folder of the PostgreSQL programs, 15 or later, the newest first; nothing if there is none.
postgres_programs() {
    { ls -d /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin 2>/dev/null || true; } |
        sed 's|.*postgresql[/@]\([0-9][0-9]*\)/bin$|\1 &|' | sort -rn |
        while read -r version folder; do
            if [ "$version" -ge 15 ] && [ -x "$folder/initdb" ]; then printf '%s\n' "$folder"; break; fi
        done
}

need_postgres() {
    [ -z "$(postgres_programs)" ] || return 0
    if command -v initdb >/dev/null 2>&1; then return 0; fi
    if command -v apt-get >/dev/null 2>&1; then
        if [ "$(id -u)" -eq 0 ]; then as_root=
        elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root=sudo
        else fail "PostgreSQL is missing and this user may not install it. Run: sudo apt-get install postgresql"
        fi
        say "PostgreSQL is missing: installing Debian's package postgresql (some 60 MB)."
        say "Only its programs are used here; the service that the package sets up is left alone."
        $as_root apt-get update -qq
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql
    elif command -v brew >/dev/null 2>&1; then
        say "PostgreSQL is missing: installing it with brew install postgresql@17."
        brew install --quiet postgresql@17
    else
        fail "PostgreSQL 15 or later is missing: install it with your system's package manager"
    fi
    [ -n "$(postgres_programs)" ] || command -v initdb >/dev/null 2>&1 ||
        fail "PostgreSQL was installed, but it is older than 15 or its programs are in no usual place"
}

# For tests that look at the server's pages in a real browser. They are skipped, with a remark, where it cannot be had.
want_browser() {
    if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then return 0; fi
    if command -v apt-get >/dev/null 2>&1; then
        if [ "$(id -u)" -eq 0 ]; then as_root=
        elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root=sudo
        else say "Chromium is missing, its tests are skipped. To run them: sudo apt-get install chromium chromium-driver"; return 0
        fi
        say "Chromium is missing: installing Debian's packages chromium and chromium-driver (some 400 MB)."
        $as_root apt-get update -qq &&
            $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver ||
            say "Chromium could not be installed; its tests are skipped."
    else
        say "Chromium and ChromeDriver are missing; their tests are skipped."
    fi
}

need_rust() {
    command -v cargo >/dev/null 2>&1 || fail "Rust is missing: see https://rustup.rs, then run this again"
    command -v cc >/dev/null 2>&1 ||
        fail "a C compiler is missing: apt-get install build-essential, or xcode-select --install"
}

# For the check of the units. Not worth a failure: false where it cannot be had.
want_systemd_analyze() {
    if command -v systemd-analyze >/dev/null 2>&1; then return 0; fi
    if [ "$(uname)" != Linux ] || ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then return 1; fi
    say "systemd-analyze is missing: installing Debian's package systemd (some 10 MB). It does not take over this machine."
    apt-get update -qq && env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd
}
