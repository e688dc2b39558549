# The .NET SDK and the release that is built with it.

DOTNET=''

need_dotnet() { # sdk|runtime
  local advice="install it (https://dotnet.microsoft.com/download/dotnet/$DOTNET_MAJOR.0) so that \`dotnet\` is on the PATH"
  DOTNET=$(type -P dotnet || true)
  [[ -n $DOTNET ]] || fail "the .NET SDK $DOTNET_MAJOR is missing; $advice"
  DOTNET=$(readlink -f -- "$DOTNET")
  if [[ $1 == sdk ]]; then
    local sdks; sdks=$("$DOTNET" --list-sdks 2>/dev/null | cut -d' ' -f1 | tr '\n' ' ' || true)
    highest_major "$sdks"
    (( REPLY >= DOTNET_MAJOR )) || fail "the .NET SDK $DOTNET_MAJOR is needed, $DOTNET has ${sdks:-only a runtime }instead; $advice"
  fi
}

highest_major() { local version; REPLY=0; for version in $1; do [[ ${version%%.*} =~ ^[0-9]+$ ]] && (( ${version%%.*} > REPLY )) && REPLY=${version%%.*}; done; return 0; }

need_runtime_for_user() { # the user of the parts must be able to run it: an SDK in /root/.dotnet is out of its reach
  local found
  found=$( cd / && clean_environment "HOME=$STATE/run" "DOTNET_CLI_HOME=$STATE/run" DOTNET_NOLOGO=1 PATH=/usr/bin:/bin \
    && as_user "$DOTNET" --list-runtimes 2>/dev/null | sed -n 's/^Microsoft.AspNetCore.App \([^ ]*\) .*/\1/p' | tr '\n' ' ' || true)
  highest_major "$found"
  (( REPLY >= DOTNET_MAJOR )) \
    || fail "user $(as_user id -un) cannot run the ASP.NET Core runtime $DOTNET_MAJOR of $DOTNET${found:+ (it has $found)}; install it where every user can enter, for instance /usr/share/dotnet"
}

digest_of() { # PATH…: digest of their files' names and contents, build output and the launcher apart
  ( cd "$ROOT" && find "$@" \( -name bin -o -name obj -o -name TestResults -o -name node_modules -o -name launcher \) -prune -o -type f -print0 2>/dev/null \
    | sort -z | xargs -0 sha256sum -- | sha256sum | cut -d' ' -f1 )
}

publish_all() { # PART…: at once; the code is 0 if all of them build, and $BUILD/PART.log is kept of those that do not
  local part pid bad=0
  local -A pids=()
  for part in "$@"; do publish "$part" >"$BUILD/$part.log" 2>&1 & pids[$part]=$!; done
  for part in "${!pids[@]}"; do
    pid=${pids[$part]}
    if wait "$pid"; then rm -f -- "$BUILD/$part.log"; else bad=1; fi
  done
  return "$bad"
}

publish() { # PART: into $BUILD/release.new/PART
  local project=$1; [[ $1 != provider ]] || project=tests/provider
  local -a native=()
  # The control plane is compiled to native code here, not while it runs: it is there sooner, and quick from the first call on.
  [[ $1 != control-plane ]] || native=(--use-current-runtime --self-contained false -p:PublishReadyToRun=true)
  # An artifacts path of its own: neither an IDE's nor the tests' obj/ folders get in the way, nor do we in theirs.
  "$DOTNET" publish "$ROOT/$project" -c Release -o "$BUILD/release.new/$1" --artifacts-path "$BUILD/artifacts/$1" \
    -v quiet --nologo -p:UseAppHost=false -p:DebugType=embedded -p:TreatWarningsAsErrors=false -p:EnforceCodeStyleInBuild=false "${native[@]}"
}

declare -A wanted=()      # of each part of a release, the digest of its sources

source_stamp() { # in REPLY; fills wanted
  wanted[control-plane]=$(digest_of control-plane migrations nginx Directory.Build.props Directory.Packages.props)
  wanted[provider]=$(digest_of tests/provider Directory.Build.props Directory.Packages.props)
  wanted[lua]=$(digest_of lua) wanted[nginx]=$(digest_of nginx)
  REPLY="${wanted[control-plane]} ${wanted[provider]} ${wanted[lua]} ${wanted[nginx]}"
}

build_release() { # $BUILD/release matches the sources afterwards; what has not changed is not built
  source_stamp
  local stamp=$REPLY
  [[ $(cat "$BUILD/release/stamp" 2>/dev/null) != "$stamp" ]] || return 0

  need_dotnet sdk
  scratch_log
  export HOME=${HOME:-$BUILD/home} DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 \
    MSBUILDDISABLENODEREUSE=1 UseSharedCompilation=false DOTNET_CLI_USE_MSBUILD_SERVER=0
  rm -rf -- "$BUILD/release.new"; mkdir -p -- "$BUILD/release.new"
  local part words=''
  local -a stale=()
  for part in control-plane provider; do
    if [[ $(cat "$BUILD/release/$part.stamp" 2>/dev/null) == "${wanted[$part]}" ]]; then
      cp -r -- "$BUILD/release/$part" "$BUILD/release.new/$part"
    else
      stale+=("$part") words+="${words:+ and }the ${part/-/ }"
    fi
    printf '%s\n' "${wanted[$part]}" >"$BUILD/release.new/$part.stamp"
  done
  if (( ${#stale[@]} > 0 )); then
    step "building $words"
    if ! in_background "$BUILD/build.log" publish_all "${stale[@]}"; then
      for part in "${stale[@]}"; do [[ ! -e $BUILD/$part.log ]] || fail "the ${part/-/ } does not build" "$BUILD/$part.log"; done
      fail "$words: the build failed" "$BUILD/build.log"
    fi
    step_done
  fi
  cp -r -- "$ROOT/lua" "$ROOT/nginx" "$BUILD/release.new/"
  printf '%s\n' "$stamp" >"$BUILD/release.new/stamp"
  rm -rf -- "$BUILD/release"; mv -- "$BUILD/release.new" "$BUILD/release"
}

ensure_release() { # $STATE/release is a copy of EVENKEEL_RELEASE, or of the checkout's own build
  local source=${EVENKEEL_RELEASE:-$BUILD/release}
  if [[ $(cat "$STATE/release/stamp" 2>/dev/null) == "$(cat "$source/stamp" 2>/dev/null)" ]]; then return 0; fi
  # Through tar: the user of the parts writes, the caller reads, for it may be unable to enter the checkout.
  as_user rm -rf -- "$STATE/release" "$STATE/release.new"
  as_user mkdir -- "$STATE/release.new"
  tar -C "$source" -cf - . | as_user tar -C "$STATE/release.new" --no-same-owner --no-same-permissions -xf -
  as_user mv -- "$STATE/release.new" "$STATE/release"
}
