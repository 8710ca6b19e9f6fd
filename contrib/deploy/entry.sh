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

state=${STATE:-/state}
wallets=${WALLETS:-/wallets}
network=${TESSERA_NETWORK:?set it: finney, test, or the URL of a node}
netuid=${TESSERA_NETUID:?set it: the number of the subnet}
run=$state/run.toml
if [ ! -e "$run" ]; then
    "$tessera" newcomer --netuid "$netuid" --subtensor.network "$network" --out "$run" ${LOCAL:+--local}
fi
"$tessera" "$role" --run "$run" --netuid "$netuid" --subtensor.network "$network" \
    --wallet.path "$wallets" --wallet.name "${TESSERA_WALLET_NAME:-default}" \
    --wallet.hotkey "${TESSERA_WALLET_HOTKEY:-default}" \
    --neuron.state_dir "$state/$role" "$@" &
child=$!
trap 'kill -TERM "$child" 2> /dev/null || true' TERM INT
# A signal ends a wait early, and the next one waits for the neuron's own end.
while :; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2> /dev/null || break
done
if [ "$status" -eq 2 ]; then
    # A container engine knows no status that forbids a restart: only 0 ends `on-failure`.
    echo "$role: exit status 2: an operator has to change something first; not started again" >&2
    exit 0
fi
exit "$status"
