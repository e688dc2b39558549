#!/usr/bin/env bash
# Builds the images of docker-compose.yml and brings the whole of it up with podman, then installs the systemd units in a machine of
# its own as docs/systemd.md says; started by `./evenkeel test containers`.
#
# The base images cannot be pulled everywhere, so stand-ins are made under their names: a Debian from debootstrap, with .NET copied from
# this machine and PostgreSQL, HAProxy, Prometheus, nginx with Lua (for OpenResty) and Node.js from Debian's packages. The Dockerfiles,
# the compose file and everything of ours in them are the real ones. What stays untried: the pulls, OpenResty itself, Grafana, and when
# health checks are run (here they are run once, by hand).
#
# Needs root, podman, docker-compose, debootstrap, and EVENKEEL_RELEASE for the units. Everything lies in .evenkeel-build/containers and
# is known by a project name of its own; nothing but that is stopped or removed. The images stay for the next run; --purge removes them.
set -Eeuo pipefail
export LC_ALL=C.UTF-8
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
place=$root/.evenkeel-build/containers
results=$root/tests/results
project=evenkeel-test-$$
service='' machine=$project-machine

say() { printf '── %s (after %d s)\n' "$*" "$SECONDS"; }
passed=0 failed=0
ok() { passed=$(( passed + 1 )); printf 'ok - %s\n' "$1"; }
not_ok() { failed=$(( failed + 1 )); printf 'not ok - %s\n' "$1"; shift; printf '%s\n' "$@" | head -n 40 | sed 's/^/# /'; }
check() { # WORDS COMMAND…
  local words=$1 said; shift
  if said=$("$@" 2>&1); then ok "$words"; else not_ok "$words" "$said"; fi
}
until_true() { local deadline=$(( SECONDS + $1 )); shift; until "$@" >/dev/null 2>&1; do (( SECONDS < deadline )) || { "$@"; return 1; }; sleep 0.5; done; }

(( EUID == 0 )) || { echo "evenkeel: the container test needs root: podman makes networks for it" >&2; exit 2; }
for program in podman docker-compose debootstrap curl; do
  type -P "$program" >/dev/null || { echo "evenkeel: $program is not installed: ./evenkeel test containers installs it" >&2; exit 2; }
done

mkdir -p -- "$place" "$results"
cat >"$place/containers.conf" <<'END'
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
END
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$place/graph" "/run/evenkeel-test-containers" >"$place/storage.conf"
export CONTAINERS_CONF=$place/containers.conf CONTAINERS_STORAGE_CONF=$place/storage.conf

of_project=(--project-directory "$root" -f "$root/docker-compose.yml" -p "$project" --profile demo --profile observability)
compose() { timeout 300 docker-compose "${of_project[@]}" "$@"; }

end() {
  local code=$?
  trap '' INT TERM
  if [[ -n $service ]]; then
    timeout 60 docker-compose "${of_project[@]}" logs --no-color >"$results/containers-parts.log" 2>&1 || true
    timeout 120 docker-compose "${of_project[@]}" down -v --remove-orphans -t 5 >>"$results/containers-podman.log" 2>&1 || true
    kill "$service" 2>/dev/null; wait "$service" 2>/dev/null
    rm -f -- "$place/podman.sock"
  fi
  podman rm -f -t 5 --ignore "$machine" >>"$results/containers-podman.log" 2>&1 || true
  exit "$code"
}
trap end EXIT
trap 'exit 130' INT TERM

if [[ ${1:-} == --purge ]]; then
  podman rm -af -t 5 >/dev/null 2>&1 || true
  podman rmi -af >/dev/null 2>&1 || true
  rm -rf -- "$place"
  ok 'all containers and images of this test are removed'
  exit 0
fi

# ---- stand-ins for the base images ---------------------------------------------------------------------------------

base=localhost/evenkeel-test/debian:12
if ! podman image exists "$base"; then
  say 'a minimal Debian (debootstrap)'
  rootfs=$place/rootfs
  rm -rf -- "$rootfs"
  mirror=$(awk '/^URIs:/ { print $2; exit } /^deb / { print $2; exit }' /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null)
  debootstrap --variant=minbase --include=ca-certificates,bash,curl,procps bookworm "$rootfs" "$mirror" >"$results/containers-debootstrap.log" 2>&1
  # its packages come from where this machine's come from
  rm -f -- "$rootfs/etc/apt/sources.list"
  cp -rL /etc/apt/sources.list.d /etc/apt/apt.conf.d "$rootfs/etc/apt/"
  [[ ! -f /etc/apt/sources.list ]] || cp /etc/apt/sources.list "$rootfs/etc/apt/"
  [[ -z ${SSL_CERT_FILE:-} ]] || cp -- "$SSL_CERT_FILE" "$rootfs/etc/ssl/certs/ca-certificates.crt"
  tar -C "$rootfs" -c . | podman import - "$base" >/dev/null
  rm -rf -- "$rootfs"
fi

stand_in() { # NAME: a Dockerfile's lines after FROM on stdin; NAME is what our Dockerfiles and the compose file ask for
  podman image exists "$1" && return 0
  say "stand-in for $1"
  { printf 'FROM %s\n' "$base"; cat; } >"$place/context/Dockerfile"
  podman build --network host -q -t "$1" "$place/context" >>"$results/containers-podman.log" 2>&1 || { tail -n 20 "$results/containers-podman.log"; exit 1; }
}
packages() { printf 'RUN apt-get update && apt-get install -y --no-install-recommends %s && rm -rf /var/lib/apt/lists/*\n' "$*"; }
image_of() { awk -v what="$2" '$1 == "FROM" && index($2, what) { print $2; exit }' "$root/$1"; }
composed() { awk -v what="$1" '$1 == "image:" && index($2, what) { print $2; exit }' "$root/docker-compose.yml"; }

: >"$results/containers-podman.log"
rm -rf -- "$place/context"; mkdir -p -- "$place/context"
dotnet_root=$(dirname -- "$(readlink -f -- "$(type -P dotnet)")")
sdk=$(image_of control-plane/Dockerfile /sdk:) aspnet=$(image_of control-plane/Dockerfile /aspnet:) node=$(image_of control-plane/Dockerfile node:)
if ! podman image exists "$sdk"; then
  cp -r -- "$dotnet_root" "$place/context/dotnet"
  cp -- ~/.nuget/NuGet/NuGet.Config "$place/context/" 2>/dev/null || echo '<configuration/>' >"$place/context/NuGet.Config"
fi
{ packages libssl3 zlib1g libstdc++6; printf '%s\n' 'COPY dotnet /usr/share/dotnet' 'COPY NuGet.Config /root/.nuget/NuGet/NuGet.Config' \
  'RUN ln -s /usr/share/dotnet/dotnet /usr/bin/dotnet' 'ENV DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 NUGET_CERT_REVOCATION_MODE=offline'; } | stand_in "$sdk"
if ! podman image exists "$aspnet"; then [[ -d $place/context/dotnet ]] || cp -r -- "$dotnet_root" "$place/context/dotnet"; fi
{ packages libssl3 zlib1g libstdc++6; printf '%s\n' 'COPY dotnet/dotnet /usr/share/dotnet/dotnet' 'COPY dotnet/host /usr/share/dotnet/host' \
  'COPY dotnet/shared /usr/share/dotnet/shared' 'RUN ln -s /usr/share/dotnet/dotnet /usr/bin/dotnet'; } | stand_in "$aspnet"
[[ -z $node ]] || {
  cp -- ~/.npmrc "$place/context/npmrc" 2>/dev/null || npm config get registry 2>/dev/null | sed 's/^/registry=/' >"$place/context/npmrc"
  { packages nodejs npm; printf '%s\n' 'COPY npmrc /root/.npmrc'; } | stand_in "$node"
}
{ packages nginx libnginx-mod-http-lua lua-resty-core lua-cjson; } | stand_in "docker.io/$(image_of nginx/Dockerfile openresty)"
cat >"$place/context/postgres.sh" <<'END'
#!/bin/bash
# As much of the official image's entry point as the compose file needs.
set -euo pipefail
bin=/usr/lib/postgresql/15/bin data=/var/lib/postgresql/data
if [[ $EUID == 0 ]]; then
  password=$(<"$POSTGRES_PASSWORD_FILE"); export password
  mkdir -p "$data" /var/run/postgresql && chown postgres: "$data" /var/run/postgresql && chmod 700 "$data"
  exec setpriv --reuid=postgres --regid=postgres --init-groups bash "$0"
fi
if [[ ! -s $data/PG_VERSION ]]; then
  "$bin/initdb" -D "$data" -U "$POSTGRES_USER" --auth-host=scram-sha-256 --auth-local=trust --pwfile=<(printf '%s\n' "$password") -E UTF8
  echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
  "$bin/pg_ctl" -D "$data" -w -o '-c listen_addresses=' start
  [[ $POSTGRES_DB == "$POSTGRES_USER" ]] && "$bin/createdb" -U "$POSTGRES_USER" "$POSTGRES_DB"
  "$bin/pg_ctl" -D "$data" -w stop
fi
exec "$bin/postgres" -D "$data" -c 'listen_addresses=*'
END
{ printf 'RUN mkdir -p /etc/postgresql-common/createcluster.d && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/none.conf\n'
  packages postgresql-15; printf '%s\n' 'COPY postgres.sh /postgres.sh' 'CMD ["bash", "/postgres.sh"]'; } | stand_in "docker.io/library/$(composed postgres:)"
{ packages haproxy; printf '%s\n' 'USER haproxy' 'CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]'; } | stand_in "docker.io/library/$(composed haproxy:)"
{ packages prometheus; printf '%s\n' 'RUN mkdir /prometheus && chown 65534:65534 /prometheus' 'USER 65534' 'ENTRYPOINT ["prometheus"]'; } | stand_in "docker.io/$(composed prom/prometheus:)"

# ---- our images --------------------------------------------------------------------------------------------------

build() { # NAME DOCKERFILE
  say "building $1"
  check "the image $1 builds" podman build --format docker --network host --pull=never -f "$root/$2" -t "docker.io/$1" "$root"
  (( failed == 0 )) || exit 1
}
version=$(composed evenkeel/control-plane:); version=${version##*:}
build "evenkeel/control-plane:$version" control-plane/Dockerfile
build "evenkeel/node:$version" nginx/Dockerfile
build "evenkeel/provider:$version" tests/provider/Dockerfile

# ---- the whole compose file ----------------------------------------------------------------------------------------

free_port() { local port; while :; do port=$(( 20000 + RANDOM % 20000 )); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }; done; }
edge=$(free_port) admin=$(free_port) prometheus=$(free_port)
export EVENKEEL_EDGE_PORT=127.0.0.1:$edge EVENKEEL_ADMIN_PORT=127.0.0.1:$admin PROMETHEUS_PORT=127.0.0.1:$prometheus
export DOCKER_HOST=unix://$place/podman.sock
rm -f -- "$place/podman.sock"
podman system service --time=0 "$DOCKER_HOST" >>"$results/containers-podman.log" 2>&1 &
service=$!
until_true 20 curl -fsS --unix-socket "$place/podman.sock" http://podman/_ping

say 'up'
mapfile -t services < <(compose config --services | grep -v '^grafana$')
check 'docker-compose up starts everything but Grafana' compose up -d --no-build "${services[@]}"

ask() { curl -fsS --max-time 20 "http://127.0.0.1:$edge/v1/chat/completions" -H 'content-type: application/json' \
  -d '{"model":"deepseek-chat","messages":[{"role":"user","content":"Hello!"}]}'; }
api() { curl -fsS --max-time 10 "http://127.0.0.1:$admin/api/v1/$1" -H @<(printf 'authorization: Bearer %s\n' "$token"); }
inside() { podman exec "$(id_of "$1")" "${@:2}"; }     # not of the compose interface: that leaves a process behind for five minutes
# By its process: what `podman kill` ends is meant to stay ended.
kill_part() { kill -KILL "$(podman inspect --format '{{.State.Pid}}' "$(id_of "$1")")"; }
both_nodes() { [[ $(api nodes | grep -oE '"live": ?true' | wc -l) == 2 ]]; }
back_again() { (( $(podman inspect --format '{{.RestartCount}}' "$(id_of "$1")") > 0 )) && "${@:2}"; }     # by its restart policy, not by us
both_again() { back_again "$1" both_nodes; }
changed() { api instances/c -X PATCH -H 'content-type: application/json' -d '{"weight": 21}'; }
answered_all() { for _ in {1..20}; do ask >/dev/null || return 1; done; }
id_of() { compose ps -q "$1"; }
unprivileged() { local part; for part; do [[ $(podman exec "$(id_of "$part")" id -u) != 0 ]] || { echo "$part runs as root"; return 1; }; done; }
read_only() { local part; for part; do ! podman exec -u 0 "$(id_of "$part")" touch /x 2>/dev/null || { echo "$part can write /x"; return 1; }; done; }
healthy() { local part; for part; do podman healthcheck run "$(id_of "$part")" || { echo "$part"; return 1; }; done; }
no_secret_shown() { ! podman inspect "$(id_of node-1)" "$(id_of control-plane)" | grep -F -- "$token"; }
rules() { [[ $(curl -fsS "http://127.0.0.1:$prometheus/api/v1/rules" | grep -oE '"name":"evenkeel(-alerts)?","file"' | sort -u | wc -l) == 2 ]]; }
token_alone() { inside prometheus test -r /secrets/metrics-token && ! inside prometheus test -r /secrets/node-token && ! inside prometheus test -r /secrets/admin-token; }
scraped() { [[ $(curl -fsS "http://127.0.0.1:$prometheus/api/v1/query?query=count(up==1)" | grep -oE '"[0-9]+"' | tail -n 1) == '"2"' ]]; }
nothing_left() { [[ -z $(podman ps -aq) ]]; }

check 'the gateway answers' until_true 120 ask
check 'the operator reads the token where the docs say' inside control-plane test -s /secrets/admin-token
token=$(inside control-plane cat /secrets/admin-token)
check 'both nodes are known and live' until_true 60 both_nodes
check 'no part but PostgreSQL, which steps down itself, runs as root' unprivileged control-plane node-1 node-2 front provider prometheus
check 'the root file systems are read-only, for root as well' read_only control-plane node-1 node-2 front provider prometheus
check 'the health checks of the images say that all is well' healthy control-plane node-1 node-2
check 'no token is in what a container tells of itself' no_secret_shown
check 'Prometheus scrapes both nodes' until_true 90 scraped
check 'it has the rules and the alerts' rules
check 'it can read the token for metrics, and no other secret' token_alone

say 'parts die'
kill_part node-1
check 'a node is killed: the other one answers, every time, as soon as the front has noticed' until_true 20 answered_all
check 'the killed node is started again, and both are live' until_true 90 both_again node-1
kill_part control-plane
check 'without the control plane every request is answered' answered_all
check 'the control plane is started again' until_true 90 back_again control-plane api status
kill_part postgres
check 'without the database every request is answered' answered_all
check 'the database is started again, and changes are taken' until_true 90 back_again postgres changed

say 'down'
check 'docker-compose down removes it all' compose down -v --remove-orphans -t 5
check 'and leaves no container' nothing_left

# ---- the systemd units, on a machine of their own: docs/systemd.md, line by line --------------------------------------

say 'a machine with systemd'
release=${EVENKEEL_RELEASE:?a release, such as ./evenkeel build makes}
{ packages systemd systemd-sysv nginx libnginx-mod-http-lua lua-resty-core lua-cjson curl libssl3 postgresql
  printf 'COPY --from=%s /usr/share/dotnet /usr/share/dotnet\n' "$aspnet"
  printf '%s\n' 'RUN ln -s /usr/share/dotnet/dotnet /usr/bin/dotnet' 'STOPSIGNAL SIGRTMIN+3' 'CMD ["/sbin/init"]'; } | stand_in localhost/evenkeel-test/machine:12
sed 's|//provider:|//127.0.0.1:|' "$root/nginx/compose/demo.yaml" >"$place/evenkeel.yaml"
podman run -d --name "$machine" --systemd=always --cap-add SYS_ADMIN,SYS_RESOURCE,NET_ADMIN,SYS_PTRACE,MKNOD --security-opt seccomp=unconfined --network none -w /checkout \
  -v "$root/nginx/systemd:/checkout/nginx/systemd:ro" -v "$root/control-plane/make-secrets.sh:/checkout/control-plane/make-secrets.sh:ro" \
  -v "$release:/checkout/.evenkeel-build/release:ro" -v "$place/evenkeel.yaml:/checkout/evenkeel.yaml:ro" localhost/evenkeel-test/machine:12 >>"$results/containers-podman.log"

on_machine() { podman exec -i "$machine" "$@"; }
documented() { awk -v which="$1" '/^```sh$/ { n++; on = n == which; next } /^```/ { on = 0 } on' "$root/docs/systemd.md" | on_machine bash -euo pipefail -s; }
booted() { on_machine systemctl is-system-running | grep -qE 'running|degraded'; }
providers() { podman exec -d "$machine" runuser -u nobody -- dotnet .evenkeel-build/release/provider/evenkeel-provider.dll --control 127.0.0.1:9104 --instance a=127.0.0.1:9100 \
  --instance b=127.0.0.1:9101 --instance c=127.0.0.1:9102 --instance lite=127.0.0.1:9103; }
asked() { on_machine curl -fsS --max-time 20 http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' -d '{"model":"deepseek-chat","messages":[{"role":"user","content":"Hello!"}]}'; }
active() { local unit; for unit; do on_machine systemctl is-active -q "evenkeel-$unit" || { on_machine journalctl -n 30 --no-pager -u "evenkeel-$unit"; return 1; }; done; }
main_pid() { on_machine systemctl show -P MainPID "evenkeel-$1"; }
confined() { # the sandbox is really there: not root, filtered, nothing writable but its own
  local pid; pid=$(main_pid "$1")
  on_machine grep -E '^(Uid|NoNewPrivs|Seccomp):' "/proc/$pid/status"
  # shellcheck disable=SC2016  # awk's
  [[ $(on_machine awk '/^Uid:/ { print $2 != 0 } /^(NoNewPrivs|Seccomp):/ { print $2 > 0 }' "/proc/$pid/status" | sort -u) == 1 ]] \
    && ! on_machine nsenter -t "$pid" -m touch /usr/x 2>/dev/null
}
masters() { on_machine pgrep -f '^nginx: master'; }
adopted() { [[ $(main_pid node) != "$agent" && $(masters) == "$nginx" ]] && active node; }

check 'it boots' until_true 60 booted
providers >/dev/null
check 'user, programs, secrets and units are put in place' documented 1
check 'the database is made and the control plane started' documented 2
check 'the control plane is ready' until_true 90 on_machine curl -fsS http://127.0.0.1:8081/readyz
check 'the node is started' documented 3
check 'a configuration is published' documented 4
check 'the gateway answers' until_true 60 asked
check 'both units are active' active control-plane node
check 'the control plane is confined' confined control-plane
check 'the node is confined' confined node
agent=$(main_pid node) nginx=$(masters)
on_machine systemctl kill -s KILL --kill-whom=main evenkeel-node
check 'the agent is killed: nginx answers' asked
check 'and the next agent adopts it' until_true 30 adopted
on_machine systemctl stop evenkeel-control-plane
check 'without the control plane the gateway answers' asked
podman restart -t 20 "$machine" >>"$results/containers-podman.log" 2>&1
providers >/dev/null
check 'after a boot all comes back by itself' until_true 120 asked
check 'and both units are active' until_true 60 active control-plane node
on_machine systemctl stop evenkeel-node
check 'a node that is stopped leaves no nginx' eval '! masters'

printf '\n%d passed, %d failed\n' "$passed" "$failed"
(( failed == 0 && passed > 0 ))
