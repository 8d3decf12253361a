# Programs in the background, for install.sh and uninstall.sh: as services of the user where a service manager runs,
# else detached from the terminal, with a file that holds the process. Sourced by them, not run.

# Prints which manager of user services can be asked: systemd, launchd or none.
service_manager() {
    if [ "$(uname -s)" = Darwin ]; then
        echo launchd
    elif command -v systemctl >/dev/null 2>&1 && systemctl --user show-environment >/dev/null 2>&1; then
        echo systemd
    else
        echo none
    fi
}

# is_running PIDFILE PROGRAM: whether the process that the file names lives, and is that program: numbers are given out
# again. One that has ended but was not collected by its parent has no arguments any more (Linux) or is called Z.
is_running() {
    [ -s "$1" ] || return 1
    if [ -r /proc/self/cmdline ]; then
        arguments=$( { tr "\0" " " <"/proc/$(cat "$1")/cmdline"; } 2>/dev/null) || return 1
    else
        arguments=$(ps -p "$(cat "$1")" -o stat= -o args= 2>/dev/null) || return 1
    fi
    case $arguments in
        Z*) return 1 ;;
        *"$2"*) return 0 ;;
        *) return 1 ;;
    esac
}

# start_detached PIDFILE LOG PROGRAM ARGUMENT…
start_detached() {
    pidfile=$1 log=$2
    shift 2
    rm -f "$pidfile"
    # Its own session, so that closing the terminal ends nothing. The file is written by the process itself, which then
    # becomes the program.
    if command -v setsid >/dev/null 2>&1; then detach=setsid; else detach=nohup; fi
    $detach sh -c 'umask 077; echo $$ >"$0"; log=$1; shift; exec "$@" >>"$log" 2>&1 </dev/null' \
        "$pidfile" "$log" "$@" </dev/null >/dev/null 2>&1 &
}

# stop_detached PIDFILE PROGRAM: asks, and after ten seconds insists. The server stops its PostgreSQL meanwhile.
stop_detached() {
    if is_running "$1" "$2"; then
        pid=$(cat "$1")
        kill "$pid"
        tries=0
        while is_running "$1" "$2"; do
            tries=$((tries + 1))
            [ "$tries" -ne 100 ] || kill -9 "$pid" 2>/dev/null || true
            sleep 0.1
        done
    fi
    rm -f "$1"
}

# has_ended PIDFILE PROGRAM: it was started, and is gone again.
has_ended() { [ -s "$1" ] && ! is_running "$1" "$2"; }

# wait_for WHAT TRIES COMMAND…: ten tries a second.
wait_for() {
    what=$1 tries=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}
