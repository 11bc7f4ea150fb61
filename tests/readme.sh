#!/usr/bin/env bash
# Runs the tour of README.md: every block tagged `sh`, in order, in one shell, in an empty folder.
#
#   tests/readme.sh path/to/tertulia
#
# `cargo run --release [-- arguments]` means the binary given; any other cargo command fails.
# README_PORT stands for the port that README.md names (7420). The first block that fails ends the
# run with its exit code.
set -u -o pipefail
bin=$(realpath "${1:?the path of the binary}")
readme=$(realpath "$(dirname "$0")/../README.md")
port=${README_PORT:-17430}
work=$(mktemp -d)
tour=$work/tour
mkdir "$tour" "$work/bin"

# Only a process that runs our binary is ours to end: a pid file may be stale.
clean() {
  local pid
  for file in "$tour"/*/pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    [ "$(readlink "/proc/$pid/exe")" = "$bin" ] && kill -KILL "$pid"
  done
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

cat >"$work/bin/cargo" <<SHIM
#!/usr/bin/env bash
[ "\${1-} \${2-}" = "run --release" ] && [ "\${3---}" = "--" ] || { echo "readme: no such cargo: \$*" >&2; exit 1; }
shift 2
[ \$# -gt 0 ] && shift
exec "$bin" "\$@"
SHIM
chmod +x "$work/bin/cargo"

# The blocks as one script. Before each, `readme_line` is the line in which it begins.
{
  cat <<'HEAD'
set -e -o pipefail
readme_end() {
  local code=$?
  [ $code = 0 ] || echo "readme: the block at README.md:$readme_line failed with exit code $code" >&2
  exit $code
}
trap readme_end EXIT
HEAD
  awk '
    /^```sh$/ { inside = 1; print "readme_line=" NR; next }
    /^```$/ && inside { inside = 0; next }
    inside { print }
  ' "$readme" | sed "s/\b7420\b/$port/g"
} >"$work/script"
blocks=$(grep -c '^readme_line=' "$work/script")
[ "$blocks" -gt 0 ] || { echo "readme: README.md has no block tagged sh" >&2; exit 1; }

cd "$tour" || exit 1
PATH=$work/bin:$PATH TERTULIA_HTTP__LISTEN=127.0.0.1:$port \
  timeout 300 bash "$work/script" </dev/null
code=$?
[ $code = 124 ] && echo "readme: not done after 300 s" >&2
[ $code = 0 ] || exit $code
echo "readme: $blocks blocks, all ran"
