#!/usr/bin/env bash
# Runs the tests of all parts and sums them up; started by `./evenkeel test`, which has installed what they need.
#
# The last line reads `N passed, N failed` (`, N skipped` may follow); what failed is named above it. The exit code is 0 only if something passed and
# nothing failed. Every runner's whole output lies in tests/results/; a failing one's is printed as well.
# Without names all parts run: first those of two lanes beside each other, for most tests wait more than they work; then, alone, those
# that judge times or look at all processes.
# A new part is a function part_NAME here and its name in all_parts.
# Options go to the failover kit, the chaos suite or the container test: tests/run.sh failover --fast. Among all parts the first two run
# in their short forms.
# shellcheck disable=SC2317  # with an exit at the end, shellcheck takes every function for unreachable
set -Eeuo pipefail
export LC_ALL=C.UTF-8

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
results=$root/tests/results
failures=$results/failures.txt
lanes=('launcher lint lua' 'e2e unit')        # about as long as each other
last_parts=(browser failover chaos bench)
other_parts=(containers)      # only when they are named
kit_options=() chaos_options=() container_options=()
rows=${EVENKEEL_TEST_ROWS:-}  # where a lane's sums go; the whole run prints them

export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 MSBUILDDISABLENODEREUSE=1 DOTNET_CLI_USE_MSBUILD_SERVER=0
export HOME=${HOME:-$root/.evenkeel-build/home}
cd "$root"

begin() { name=$1 began_s=$SECONDS log=$results/$1.log; printf '%s\n' "── $name"; }

record() { # PASSED FAILED SKIPPED: of the part that began last
  printf '%s\t%d\t%d\t%d\t%d\n' "$name" "$1" "$2" "$3" "$(( SECONDS - began_s ))" >>"$rows"
  printf '   %s: %d passed, %d failed, %d skipped in %d s\n' "$name" "$1" "$2" "$3" "$(( SECONDS - began_s ))"
}

sum_up() { # the table, the last line, and whether all is well
  awk -F '\t' -v failures="$failures" '
    BEGIN { printf "\n%-22s %6s %6s %7s %8s\n", "PART", "PASSED", "FAILED", "SKIPPED", "TIME" }
    { printf "%-22s %6d %6d %7d %6d s\n", $1, $2, $3, $4, $5; passed += $2; failed += $3; skipped += $4 }
    END {
      while ((getline line <failures) > 0) { if (!told++) print "\nFailed:"; print line }
      printf "\n%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
      exit !(passed > 0 && failed == 0)
    }' "$rows"
}

show_log() { # what failed, with its evidence; the end of the log where no failure can be told from the rest
  local shown
  sed -nE 's/^( +Failed |not ok |Failure -> |Error -> )(.*)/\2/p' "$log" | cut -c1-200 | sed "s/^/  $name: /" >>"$failures" || true
  shown=$(awk '
    /^( +Failed |not ok |Failure ->|Error ->)/ { on = 1 }
    /^( +(Passed|Skipped) |ok |[0-9-]+T[0-9:.]+Z |Test Run |Total tests)/ { on = 0 }
    on' "$log" | head -n 400 | cut -c1-500 || true)
  printf '%s\n' "${shown:-$(tail -n 60 -- "$log" | cut -c1-500)}" | sed 's/^/   | /'
}

check() { # NAME COMMAND…: a check that passes or fails as a whole
  begin "$1"; shift
  if "$@" >"$log" 2>&1; then record 1 0 0; else show_log; record 0 1 0; fi
}

shell_scripts() { git -c 'safe.directory=*' ls-files -z | xargs -0 grep -slE '^#!' -- | xargs awk 'FNR == 1 && /^#!.*[\/ ](ba)?sh/ { print FILENAME }'; }

hardened() { # UNIT…: on systemd's scale from 0 to 100, where 100 is no hardening at all
  local unit; for unit in "$@"; do systemd-analyze security --offline=yes --no-pager --threshold=20 "$unit" || return 1; done
}

is_formatted() { # its third pass, the analyzers, is the build's: there warnings are errors
  dotnet format whitespace ControlPlane.sln --verify-no-changes --verbosity minimal && dotnet format style ControlPlane.sln --verify-no-changes --verbosity minimal
}

part_lint() {
  check luacheck luacheck --no-color lua tests/lua tests/bench
  # shellcheck disable=SC2046  # names without spaces, our own
  check shellcheck shellcheck -xa $(shell_scripts)
  ! command -v systemd-analyze >/dev/null || check 'systemd units' hardened nginx/systemd/*.service
  check 'dotnet format' is_formatted
}

part_lua() {
  local code=0 line numbers
  begin busted
  busted -f tests/lua/.busted -o plainTerminal >"$log" 2>&1 || code=$?
  # "12 successes / 0 failures / 0 errors / 0 pending : 0.1 seconds"
  line=$(grep -aE '^[0-9]+ success(es)? / [0-9]+ failures? / [0-9]+ errors? / [0-9]+ pending' "$log" | tail -n 1 || true)
  read -ra numbers <<<"$(tr -cs '0-9' ' ' <<<"$line")"
  if [[ -z $line ]]; then show_log; record 0 1 0; return; fi
  local bad=$(( numbers[1] + numbers[2] ))
  (( code == 0 || bad > 0 )) || bad=1
  (( bad == 0 )) || show_log
  record "${numbers[0]}" "$bad" "${numbers[3]}"
}

counter() { sed -nE "s/.*<Counters [^>]*\b$1=\"([0-9]+)\".*/\1/p" "$trx" | head -n 1; }

need_build() { # once for all: two lanes cannot build the same project
  [[ -z ${EVENKEEL_TESTS_BUILT:-} ]] || return 0
  begin 'test build'
  if dotnet build ControlPlane.sln -c Release --nologo -v quiet >"$log" 2>&1; then export EVENKEEL_TESTS_BUILT=1; else show_log; record 0 1 0; return 1; fi
}

dotnet_tests() { # PROJECT NAME [WORDS]: counted from the .trx report; lines with WORDS are shown as they come
  local code=0 good bad total trx
  need_build || return 0
  begin "$2"
  trx=$results/$2.trx; rm -f -- "$trx"
  dotnet test "$1" -c Release --no-build --nologo --logger "trx;LogFileName=$2.trx" --logger 'console;verbosity=normal' \
    --results-directory "$results" 2>&1 | tee "$log" | { grep -a --line-buffered -E "^ +(${3:-Failed|Skipped}) |: error " || true; } || code=$?
  if [[ ! -s $trx ]]; then show_log; record 0 1 0; return; fi
  good=$(counter passed) bad=$(counter failed) total=$(counter total)
  bad=$(( bad + $(counter error) + $(counter timeout) + $(counter aborted) ))
  (( code == 0 || bad > 0 )) || bad=1                  # the host broke down after the last test
  (( bad == 0 )) || show_log
  record "$good" "$bad" "$(( total > good + bad ? total - good - bad : 0 ))"
}

part_unit() {
  local project
  for project in tests/*/*.csproj; do
    if [[ $project == tests/e2e/* || $project == tests/browser/* ]] || ! grep -q Microsoft.NET.Test.Sdk "$project"; then continue; fi
    dotnet_tests "$project" "$(basename "$(dirname "$project")")"
  done
}

need_release() { # built once, for every stack that the tests start
  [[ -z ${EVENKEEL_RELEASE:-} ]] || return 0
  begin build
  if ./evenkeel build >"$log" 2>&1; then export EVENKEEL_RELEASE=$root/.evenkeel-build/release; else show_log; record 0 1 0; return 1; fi
}

part_launcher() {
  need_release || return 0
  begin launcher
  local code=0 good bad
  tests/launcher/run.sh 2>&1 | tee "$log" | sed -u 's/^/   /' || code=$?
  good=$(grep -c '^ok ' "$log" || true) bad=$(grep -c '^not ok ' "$log" || true)
  (( code == 0 || bad > 0 )) || bad=1
  record "$good" "$bad" 0
}

part_e2e() {
  need_release || return 0
  dotnet_tests tests/e2e/Evenkeel.EndToEnd.csproj e2e 'Passed|Failed|Skipped'
}

need_dashboard_tools() { # once per lock file
  local directory=control-plane/Dashboard digest
  digest=$(sha256sum <"$directory/package-lock.json")
  [[ $(cat "$directory/node_modules/.lock-digest" 2>/dev/null) != "$digest" ]] || return 0
  begin 'npm ci'
  if npm ci --prefix "$directory" --no-audit --no-fund --ignore-scripts --loglevel=error >"$log" 2>&1; then
    printf '%s\n' "$digest" >"$directory/node_modules/.lock-digest"
  else
    show_log; record 0 1 0; return 1
  fi
}

dashboard_is_built() { # what is committed is what the sources give
  local built code=0; built=$(mktemp -d)
  if ! node control-plane/Dashboard/build.mjs "$built" || ! diff -r "$built" control-plane/wwwroot; then
    echo 'control-plane/wwwroot is not what its sources give: npm run build in control-plane/Dashboard'; code=1
  fi
  rm -rf -- "$built"
  return "$code"
}

part_browser() {
  need_dashboard_tools || return 0
  check 'dashboard types' control-plane/Dashboard/node_modules/.bin/tsc --noEmit -p control-plane/Dashboard
  check 'dashboard build' dashboard_is_built
  need_release || return 0
  dotnet_tests tests/browser/Evenkeel.Browser.csproj browser
}

own_sum() { # PART COMMAND…: a program that prints its table and its own sum
  local code=0 sum numbers
  need_release || return 0
  begin "$1"; shift
  "$@" 2>&1 <&3 | tee "$log" || code=$?
  sum=$(grep -aE '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1 || true)
  read -ra numbers <<<"$(tr -cs '0-9' ' ' <<<"${sum:-0 0}") 0"
  (( code == 0 || numbers[1] > 0 )) || numbers[1]=1
  record "${numbers[0]}" "${numbers[1]}" "${numbers[2]}"
}

part_failover() { own_sum failover dotnet run --project tests/failover -c Release -- "${kit_options[@]}"; }

part_chaos() { # root gives it mounts of its own, that end with it: a disk to be filled, a network to be broken
  local -a alone=()
  if (( EUID == 0 )) && unshare -m --propagation private true 2>/dev/null; then alone=(unshare -m --propagation private env EVENKEEL_CHAOS_OWN_MOUNTS=1); fi
  own_sum chaos "${alone[@]}" dotnet run --project tests/chaos -c Release -- "${chaos_options[@]}"
}

part_bench() { # that each bench works; what it measures is not judged here
  need_release || return 0
  check bench ./evenkeel bench --smoke --out "$results/benchmarks"
}

part_containers() {
  local code=0 good bad
  [[ ${container_options[*]:-} == *--purge* ]] || need_release || return 0
  begin containers
  tests/containers/run.sh "${container_options[@]}" 2>&1 | tee "$log" | sed -u 's/^/   /' || code=$?
  good=$(grep -c '^ok ' "$log" || true) bad=$(grep -c '^not ok ' "$log" || true)
  (( code == 0 || bad > 0 )) || bad=1
  record "$good" "$bad" 0
}

run_lanes() { # PARTS…: each lane beside the others; a lane that is told to stop stops its own
  local lane code=0
  local -a pids=()
  need_build || return 0
  need_release || return 0
  for lane in "$@"; do
    # a shell lets what it starts in the background ignore interrupts, and whoever tests interruptions would fail
    # shellcheck disable=SC2086  # the parts
    env --default-signal=INT EVENKEEL_TEST_ROWS="$rows" "$BASH" "$root/tests/run.sh" $lane &
    pids+=($!)
  done
  trap 'kill -INT "${pids[@]}" 2>/dev/null; wait; exit 130' INT TERM
  wait "${pids[@]}" || code=$?
  trap - INT TERM
  return "$code"
}

main() {
  local part
  local -a parts=()
  while (( $# > 0 )) && [[ $1 != -* ]]; do parts+=("$1"); shift; done
  case " ${parts[*]} " in
    ' failover ') kit_options=("$@") ;;
    ' chaos ') chaos_options=("$@") ;;
    ' containers ') container_options=("$@") ;;
    *) (( $# == 0 )) || { printf 'evenkeel: only the parts failover, chaos and containers take options, each by itself, such as %s\n' "$1" >&2; exit 2; } ;;
  esac
  for part in "${parts[@]}"; do
    [[ " ${lanes[*]} ${last_parts[*]} ${other_parts[*]} " == *" $part "* ]] \
      || { printf 'evenkeel: there is no test part %s (%s)\n' "$part" "${lanes[*]} ${last_parts[*]} ${other_parts[*]}" >&2; exit 2; }
  done
  exec 3<&0 </dev/null      # nothing may wait for a person, but for the kit when it is told to
  mkdir -p -- "$results"
  if [[ -n $rows ]]; then   # a lane of another run
    for part in "${parts[@]}"; do "part_$part"; done
    exit 0
  fi
  rows=$results/sums.tsv; : >"$rows"; : >"$failures"
  if (( ${#parts[@]} == 0 )); then
    kit_options=(--fast) chaos_options=(--short)
    run_lanes "${lanes[@]}" || { begin lanes; record 0 1 0; }
    parts=("${last_parts[@]}")
  fi
  for part in "${parts[@]}"; do "part_$part"; done
  sum_up
}

# Read whole before it begins: the file may change while it runs.
{ main "$@"; exit; }
