#!/bin/sh
# The entry point of the image: `entry.sh miner [flags]`, `entry.sh validator [flags]`, and any other
# command of `tessera` as it is.
#
# Settings: TESSERA_NETWORK, TESSERA_NETUID, the bucket's variables; TESSERA_WALLET_NAME and
# TESSERA_WALLET_HOTKEY (default: default). STATE (default /state) is the only folder written.
set -eu
role=${1:?name a command: miner or validator}
shift
tessera=${TESSERA:-tessera}
case "$role" in miner | validator) ;; *) exec "$tessera" "$role" "$@" ;; esac

# A container engine knows no status that forbids a restart: only 0 ends `on-failure`.
give_up() {
    echo "$role: $1: an operator has to change something first; not started again" >&2
    exit 0
}

# Runs a step of the start; returns after its success and ends this script with its status otherwise.
step() {
    "$@" &
    child=$!
    # A signal that came before the child had a number.
    [ -z "$stopped" ] || kill -TERM "$child" 2> /dev/null || true
    # A signal ends a wait early, and the next one waits for the step's own end.
    while :; do
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2> /dev/null || break
    done
    [ "$status" -ne 2 ] || give_up "exit status 2"
    [ "$status" -eq 0 ] || exit "$status"
}
stopped= child=
# Before the first step: a signal may come as soon as a step has begun.
trap 'stopped=yes; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null || true' TERM INT

state=${STATE:-/state}
wallets=${WALLETS:-/wallets}
network=${TESSERA_NETWORK:-}
netuid=${TESSERA_NETUID:-}
[ -n "$network" ] || give_up "TESSERA_NETWORK is not set (finney, test, or the URL of a node)"
[ -n "$netuid" ] || give_up "TESSERA_NETUID is not set (the number of the subnet)"
run=$state/run.toml
if [ ! -e "$run" ]; then
    step "$tessera" newcomer --netuid "$netuid" --subtensor.network "$network" --out "$run" \
        ${LOCAL:+--local}
    # A signal just before the step's own end: no next step.
    [ -z "$stopped" ] || exit 130
fi
step "$tessera" "$role" --run "$run" --netuid "$netuid" --subtensor.network "$network" \
    --wallet.path "$wallets" --wallet.name "${TESSERA_WALLET_NAME:-default}" \
    --wallet.hotkey "${TESSERA_WALLET_HOTKEY:-default}" \
    --neuron.state_dir "$state/$role" "$@"
