#!/bin/sh
# Builds the Debian packages coditect-sync and coditect-server into target/debian, from programs that are built already,
# and checks them: contents, installation into an empty root, removal.
#
#   sh packaging/deb.sh [--no-check]
#
# The programs are those of target/release, or of the folder that CODITECT_BIN names. cargo-deb is installed into
# target/tools if it is missing. Where there is no dpkg it says that it skipped this, and succeeds.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"
cd "$root"

cargo_deb_version=3.8.0
# Nobody runs it often enough to wait for an optimised one: 40 s of one core against minutes.
cargo_deb_profile=--debug

check=yes
case ${1:-} in
    '') ;;
    --no-check) check=no ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

if ! command -v dpkg-deb >/dev/null 2>&1; then
    say "skipped: there is no dpkg on this machine"
    exit 0
fi

target=${CARGO_TARGET_DIR:-$root/target}
bin=${CODITECT_BIN:-$target/release}
for program in coditect-sync coditect-server; do
    [ -x "$bin/$program" ] || fail "$bin/$program is missing: cargo build --release --bins"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# dpkg is particular about what others may do with a package's folders.
umask 022

cargo_deb() {
    tools=$target/tools
    if [ "$("$tools/bin/cargo-deb" --version 2>/dev/null)" != "cargo-deb $cargo_deb_version" ]; then
        say "cargo-deb $cargo_deb_version is missing: installing it into $tools."
        need_rust
        # In a folder of its own, so that it does not compile this workspace's dependencies anew.
        cargo install --quiet --locked $cargo_deb_profile --version "$cargo_deb_version" \
            --root "$tools" --target-dir "$tools/build" cargo-deb
    fi
    # It packs what it finds in target/release. These are copies, since it strips them.
    mkdir -p "$work/target/release"
    cp "$bin/coditect-sync" "$bin/coditect-server" "$work/target/release/"
    for package in coditect-sync coditect-server; do
        CARGO_TARGET_DIR=$work/target "$tools/bin/cargo-deb" --quiet --no-build --package "$package" --output "$root/target/debian/"
    done
}

# What is made from the programs and the units: see [package.metadata.deb] in daemon/Cargo.toml and server/Cargo.toml.
assets() {
    assets=$root/target/debian-assets
    rm -rf "$assets"
    for program in coditect-sync coditect-server; do
        folder=$assets/$program
        mkdir -p "$folder"
        "$bin/$program" man --dir "$folder/man"
        for shell in bash zsh fish; do "$bin/$program" completions "$shell" >"$folder/$shell"; done
        version=$("$bin/$program" --version)
        # The date of the last change, so that the same sources make the same package.
        date=$(git log -1 --format=%aD 2>/dev/null || date -R)
        cat >"$folder/changelog" <<CHANGELOG
$program (${version#* }-1) unstable; urgency=medium

  * See CHANGELOG.md of the sources.

 -- CODITECT <packages@coditect.example>  $date
CHANGELOG
    done
    "$bin/coditect-sync" config default >"$assets/coditect-sync/config.toml"
    sed 's|%h/.local/bin/|/usr/bin/|' packaging/systemd/user/coditect-sync.service >"$assets/coditect-sync/coditect-sync.service"
}

# contains PACKAGE FILE...
contains() {
    package=$1
    shift
    dpkg-deb -c "$package" | awk '{ print $6 }' >"$work/contents"
    for file; do grep -qxF "./$file" "$work/contents" || fail "$package lacks $file"; done
}

# As root, or as what the files take for it.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else fakeroot "$@"; fi
}

in_scratch() { as_root dpkg --root="$scratch" --force-not-root --force-script-chrootless --force-depends --log=/dev/null "$@" >"$work/dpkg.log" 2>&1 ||
    { cat "$work/dpkg.log" >&2; fail "dpkg $1 failed"; }; }

check() {
    sync=$(ls -t "$root"/target/debian/coditect-sync_*.deb | head -n 1)
    server=$(ls -t "$root"/target/debian/coditect-server_*.deb | head -n 1)
    for package in "$sync" "$server"; do dpkg-deb -I "$package" | grep -E '^ (Package|Version|Depends|Recommends):'; done
    contains "$sync" usr/bin/coditect-sync usr/lib/systemd/user/coditect-sync.service \
        usr/share/man/man1/coditect-sync.1.gz usr/share/man/man1/coditect-sync-status.1.gz \
        usr/share/bash-completion/completions/coditect-sync usr/share/zsh/vendor-completions/_coditect-sync \
        usr/share/fish/vendor_completions.d/coditect-sync.fish usr/share/doc/coditect-sync/copyright \
        usr/share/doc/coditect-sync/examples/config.toml
    contains "$server" usr/bin/coditect-server usr/lib/systemd/system/coditect-server.service \
        usr/lib/sysusers.d/coditect-server.conf etc/coditect/server.env usr/share/man/man1/coditect-server.1.gz \
        usr/share/bash-completion/completions/coditect-server usr/share/doc/coditect-server/copyright
    if command -v lintian >/dev/null 2>&1; then
        lintian --fail-on error "$sync" "$server"
    else
        say "skipped: lintian is not here"
    fi
    if [ "$(id -u)" -ne 0 ] && ! command -v fakeroot >/dev/null 2>&1; then
        say "skipped: installing needs root or fakeroot"
        return
    fi

    scratch=$work/root
    mkdir -p "$scratch/var/lib/dpkg/info" "$scratch/var/lib/dpkg/updates" "$scratch/var/lib/dpkg/triggers"
    : >"$scratch/var/lib/dpkg/status"
    find "$scratch" | sort >"$work/before"
    # Twice: an update to the same version changes nothing.
    for _ in 1 2; do in_scratch --install "$sync" "$server"; done
    for program in coditect-sync coditect-server; do "$scratch/usr/bin/$program" --version; done
    grep -q '^ExecStart=/usr/bin/coditect-sync run' "$scratch/usr/lib/systemd/user/coditect-sync.service" ||
        fail "the unit starts another program"
    bash -n "$scratch/usr/share/bash-completion/completions/coditect-sync"
    mkdir -p "$scratch/var/lib/coditect" && : >"$scratch/var/lib/coditect/kept"

    in_scratch --remove coditect-sync coditect-server
    left=$(find "$scratch" -type f -not -path "$scratch/var/lib/dpkg/*" | sed "s|^$scratch||" | sort | tr '\n' ' ')
    [ "$left" = "/etc/coditect/server.env /var/lib/coditect/kept " ] || fail "after the removal there still is: $left"
    in_scratch --purge coditect-server
    [ ! -e "$scratch/etc/coditect/server.env" ] || fail "a purge leaves /etc/coditect/server.env"
    [ -e "$scratch/var/lib/coditect/kept" ] || fail "a purge takes the data away"
    say "installed, run, removed: nothing is left but the data"
}

assets
cargo_deb
[ "$check" = no ] || check
ls -l "$root"/target/debian/*.deb
