#!/bin/sh
# Checks the systemd units: that systemd understands every line, and how much the server's exposes.
#
#   sh packaging/check-units.sh
#
# Without systemd-analyze (macOS, a slim container) it says that it skipped this, and succeeds.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"

# Exposure of the server's unit in tenths, as systemd-analyze counts it; 20 is what the product promises.
exposure_max=20

if ! want_systemd_analyze; then
    say "skipped: systemd-analyze is not here and cannot be installed by this user"
    exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# A manager of the user wants these to be there, and never writes to them for a check.
export HOME="$folder" XDG_RUNTIME_DIR="$folder"

# verify OPTIONS UNIT: the programs need not be installed for it; any program that is there takes their place.
verify() {
    mkdir -p "$folder/units"
    for unit; do :; done
    sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$unit" >"$folder/units/${unit##*/}"
    # It also speaks of other units of this machine; what counts is what it says of ours, which must be nothing.
    systemd-analyze ${2:+"$1"} verify "$folder/units/${unit##*/}" 2>"$folder/said" || { cat "$folder/said" >&2; exit 1; }
    if grep -F "${unit##*/}" "$folder/said" >&2; then fail "systemd does not like $unit"; fi
    say "understood: ${unit#"$root"/}"
}

for unit in "$root"/packaging/systemd/*.service; do verify "$unit"; done
for unit in "$root"/packaging/systemd/user/*.service; do verify --user "$unit"; done

# Debian 11 and older cannot do this without a running systemd.
if systemd-analyze --help | grep -q -- --offline; then
    systemd-analyze security --offline=yes --threshold="$exposure_max" \
        "$root/packaging/systemd/coditect-server.service" >"$folder/exposure" ||
        { cat "$folder/exposure" >&2; fail "the server's unit exposes too much"; }
    tail -n 1 "$folder/exposure"
else
    say "skipped: this systemd-analyze cannot measure the exposure of a unit that does not run"
fi
