# What the scripts share. Sourced from the root of the project, by bash.
set -euo pipefail

# Versions of the test programs that come from crates.io.
PJDFSTEST_VERSION=0.2.2
FSX_VERSION=0.3.2
# The server of Azure's blobs, from npm.
AZURITE_VERSION=3.37.0

section() { printf '\n== %s\n' "$*"; }

die() {
    echo "$*" >&2
    exit 2
}

# Installs the Debian packages of programs that are missing: pairs COMMAND:PACKAGE, or
# PATTERN:PACKAGE where PATTERN is a path with wildcards.
need() {
    local pair what missing=()
    for pair in "$@"; do
        what=${pair%%:*}
        case $what in
            /*) compgen -G "$what" >/dev/null || missing+=("${pair#*:}") ;;
            *) PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null || missing+=("${pair#*:}") ;;
        esac
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    echo "installing ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "needs root to install: apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
    "${install[@]}" >"$LOGS/apt.log" 2>&1 || {
        apt-get update -q >"$LOGS/apt.log" 2>&1 && "${install[@]}" >>"$LOGS/apt.log" 2>&1
    } || { tail -20 "$LOGS/apt.log" >&2; die "cannot install ${missing[*]}"; }
}

# The compiler must be there; all else can be installed.
need_rust() {
    command -v cargo >/dev/null || die "cargo is not in the path: install Rust (https://rustup.rs)"
}

# pjdfstest and fsx, built once into target/tools.
need_tools() {
    local want=()
    installed() { grep -qs "\"$1 $2 " target/tools/.crates2.json && [ -x "target/tools/bin/$1" ]; }
    installed pjdfstest "$PJDFSTEST_VERSION" || want+=("pjdfstest@$PJDFSTEST_VERSION")
    installed fsx "$FSX_VERSION" || want+=("fsx@$FSX_VERSION")
    [ ${#want[@]} -eq 0 ] && return 0
    echo "building ${want[*]}"
    mkdir -p target/tools
    CARGO_TARGET_DIR=$PWD/target/tools-build cargo install --locked --force --root target/tools "${want[@]}" \
        >"$LOGS/tools.log" 2>&1 || { tail -20 "$LOGS/tools.log" >&2; die "cannot build ${want[*]}"; }
    rm -rf target/tools-build
}

# Azurite, into target/tools/azurite.
need_azurite() {
    local there=target/tools/azurite/node_modules/azurite/package.json
    grep -qs "\"version\": \"$AZURITE_VERSION\"" "$there" && return 0
    echo "installing azurite@$AZURITE_VERSION"
    need node:nodejs npm:npm
    mkdir -p target/tools/azurite
    npm install --prefix target/tools/azurite --no-audit --no-fund --ignore-scripts "azurite@$AZURITE_VERSION" \
        >"$LOGS/azurite.log" 2>&1 || { tail -20 "$LOGS/azurite.log" >&2; die "cannot install azurite@$AZURITE_VERSION"; }
}

need_fuse() {
    [ -c /dev/fuse ] || modprobe fuse 2>/dev/null || true
    [ -c /dev/fuse ] || die "/dev/fuse is missing: the kernel has no FUSE, or the container does not let it in"
}

# Has the kernel offer FUSE over io_uring to new mounts, until the end. Where it can't, the cases
# that need it are skipped.
need_io_uring() {
    local switch=/sys/module/fuse/parameters/enable_uring was
    was=$(cat "$switch" 2>/dev/null) || was=none
    case $was in
        Y) echo "FUSE over io_uring is on" ;;
        none) echo "SKIPPED: this kernel has no FUSE over io_uring (Linux 6.14 is the first with it); its cases do not run" ;;
        *)
            if (echo Y >"$switch") 2>/dev/null; then
                SWITCH=$switch SWITCH_WAS=$was
                echo "FUSE over io_uring is on, until the end ($switch)"
            else
                echo "SKIPPED: $switch can't be written, so FUSE over io_uring stays off; its cases do not run"
            fi
            ;;
    esac
}

# Everything temporary lies in $SCRATCH, which is on a disk and open to all users to pass. Its
# name is short, as those of sockets in it are at most 107 bytes long, folders included.
make_scratch() {
    SCRATCH=$(mktemp -d "${NEXUS_TEST_DIR:-/var/tmp}/nx.XXXXXX")
    chmod 755 "$SCRATCH"
    export SCRATCH
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Leaves no process, mount, loop device or folder behind, however a suite ended.
clean_up() {
    local status=$? pid point device file
    trap - EXIT
    for file in /proc/[0-9]*; do
        pid=${file#/proc/}
        [ "$pid" = $$ ] && continue
        if tr '\0' '\n' <"$file/cmdline" 2>/dev/null | grep -qsF "$SCRATCH"; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
    while read -r _ point _; do
        case $point in "$SCRATCH"/*) umount -l "$point" 2>/dev/null || true ;; esac
    done < <(tac /proc/mounts)
    while read -r device file; do
        case $file in "$SCRATCH"/*) losetup -d "$device" 2>/dev/null || true ;; esac
    done < <(losetup -n -l -O NAME,BACK-FILE 2>/dev/null || true)
    rm -rf --one-file-system "$SCRATCH"
    [ -z "${SWITCH-}" ] || echo "$SWITCH_WAS" >"$SWITCH"
    exit "$status"
}

PASSED=0 FAILED=0 SKIPPED=0 BAD=()

# Adds "NAME: N passed, N failed[, N skipped]", the last such line of a file, to the sums.
add_up() {
    local line
    line=$(grep -aE '^[a-z_-]+: [0-9]+ passed, [0-9]+ failed' "$1" | tail -1)
    [ -n "$line" ] || return 1
    PASSED=$((PASSED + $(sed -E 's/.*: ([0-9]+) passed.*/\1/' <<<"$line")))
    FAILED=$((FAILED + $(sed -E 's/.* ([0-9]+) failed.*/\1/' <<<"$line")))
    case $line in *skipped*) SKIPPED=$((SKIPPED + $(sed -E 's/.* ([0-9]+) skipped.*/\1/' <<<"$line"))) ;; esac
}

# Runs one suite: its name, its time limit in seconds, its command. A suite that dies or
# hangs counts as one failure.
suite() {
    local name=$1 limit=$2 status=0 start=$SECONDS
    shift 2
    section "$name"
    timeout --kill-after=20 "$limit" "$@" </dev/null 2>&1 | tee "$LOGS/$name.log" || status=$?
    [ "$status" = 124 ] && echo "$name ran longer than $limit s and was ended"
    if ! add_up "$LOGS/$name.log"; then
        FAILED=$((FAILED + 1))
        echo "$name: 0 passed, 1 failed, 0 skipped"
    elif [ "$status" != 0 ] && ! grep -qaE "^$name: .* [1-9][0-9]* failed" "$LOGS/$name.log"; then
        FAILED=$((FAILED + 1))
    fi
    [ "$status" = 0 ] || BAD+=("$name")
    echo "($((SECONDS - start)) s)"
}

# Says the sums; fails if anything failed, or nothing passed.
sum_up() {
    section "in all"
    [ ${#BAD[@]} -eq 0 ] || echo "not good: ${BAD[*]}"
    echo "($((SECONDS)) s)"
    echo "all: $PASSED passed, $FAILED failed, $SKIPPED skipped"
    [ ${#BAD[@]} -eq 0 ] && [ "$FAILED" = 0 ] && [ "$PASSED" -gt 0 ]
}
