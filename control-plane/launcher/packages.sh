# What the machine lacks: packages.

readonly LUA_MODULE=/usr/lib/nginx/modules/ngx_http_lua_module.so
exists() { compgen -G "$1" >/dev/null; }
has_openresty() { [[ -x /usr/local/openresty/nginx/sbin/nginx ]] || type -P openresty >/dev/null; }

missing_packages() { # one a line
  if ! has_openresty; then
    [[ -x /usr/sbin/nginx ]] || echo nginx
    [[ -e $LUA_MODULE ]] || echo libnginx-mod-http-lua
    [[ -e /usr/share/lua/5.1/resty/core.lua ]] || echo lua-resty-core
    exists '/usr/lib/*/lua/5.1/cjson.so' || echo lua-cjson
  fi
  exists '/usr/lib/postgresql/*/bin/initdb' || echo postgresql
  type -P curl >/dev/null || echo curl
}

# For `test`. luajit2, not luajit: the latter's library conflicts with what lua-resty-core needs.
missing_test_packages() { # [PART…]
  type -P luajit >/dev/null || echo luajit2
  type -P busted >/dev/null || echo lua-busted
  type -P luacheck >/dev/null || echo lua-check
  type -P shellcheck >/dev/null || echo shellcheck
  [[ -x /bin/kill ]] || echo procps
  type -P node >/dev/null || echo nodejs
  type -P npm >/dev/null || echo npm
  type -P promtool >/dev/null || echo prometheus
  type -P chromium >/dev/null || echo chromium
  [[ -d /usr/share/fonts/truetype/dejavu ]] || echo fonts-dejavu-core
  if (( EUID == 0 )); then type -P ip >/dev/null || echo iproute2; [[ " $* " == *' containers '* ]] || type -P iptables >/dev/null || echo iptables; fi
  [[ " $* " != *' containers '* ]] || missing_container_packages
}

missing_container_packages() {
  local program
  for program in podman docker-compose debootstrap runc; do type -P "$program" >/dev/null || echo "$program"; done
  type -P iptables >/dev/null || echo iptables
  [[ -x /usr/lib/podman/netavark ]] || printf '%s\n' netavark aardvark-dns
}

as_root() { if (( EUID == 0 )); then "$@"; else sudo "$@"; fi; }

restore_package_policy() {
  local file
  for file in "${package_policy[@]}"; do
    as_root rm -f -- "$file"
    ! as_root test -e "$file.before-evenkeel" || as_root mv -f -- "$file.before-evenkeel" "$file"
  done
  package_policy=()
}

package_policy_file() { # MODE PATH: stdin, until restore_package_policy
  as_root mkdir -p -- "$(dirname -- "$2")"
  ! as_root test -e "$2" || as_root mv -f -- "$2" "$2.before-evenkeel"
  package_policy+=("$2")
  as_root tee -- "$2" >/dev/null
  as_root chmod "$1" -- "$2"
}

install_packages() { # LOG PACKAGE…: with apt, and without a system nginx or a system cluster to be started
  local log=$1; shift
  type -P apt-get >/dev/null \
    || fail "these are missing: $*; there is no apt-get here to install them with, so install their like and try again"
  if (( EUID != 0 )); then
    type -P sudo >/dev/null || fail "these packages are missing: $*; install them as root: apt-get install -y $*"
    sudo -v || fail "these packages are missing: $*; sudo did not allow their installation"
  fi
  step "installing $*"
  package_policy_file 755 /usr/sbin/policy-rc.d <<'END'
#!/bin/sh
# Put here by Evenkeel's launcher while it installs packages: no service is started. It goes away right after.
exit 101
END
  package_policy_file 644 /etc/postgresql-common/createcluster.d/evenkeel.conf <<<'create_main_cluster = false'
  local -a apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120)
  # The lists first: a fresh machine has none, an old one has stale ones.
  in_background "$log" as_root "${apt[@]}" update || true
  in_background "$log" as_root "${apt[@]}" install --no-install-recommends "$@" \
    || fail "apt could not install $*" "$log"
  # Nor at the next boot. Only what came just now is disabled; what was there before is the operator's.
  local package
  for package in nginx postgresql prometheus; do
    case " $* " in *" $package "*)
      as_root update-rc.d "$package" disable >/dev/null 2>&1 || true
      # It does nothing for whoever is not dpkg.
      as_root env DPKG_MAINTSCRIPT_PACKAGE="$package" deb-systemd-helper disable "$package.service" >/dev/null 2>&1 || true ;;
    esac
  done
  restore_package_policy
  step_done
}

ensure_packages() {
  local -a missing; mapfile -t missing < <(missing_packages)
  (( ${#missing[@]} > 0 )) || return 0
  scratch_log; install_packages "$REPLY" "${missing[@]}"
}

scratch_log() { # a log for what happens before there is a state directory
  mkdir -p -- "$BUILD" 2>/dev/null && [[ -w $BUILD ]] || fail "$BUILD cannot be written: the checkout must be writable for the one who runs ./evenkeel"
  REPLY=$BUILD/last.log
}
