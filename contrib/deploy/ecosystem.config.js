// pm2: `pm2 start ecosystem.config.js --only tessera-miner`, after `tessera init --role miner`.
// START names the script that init writes; or NETUID, where it lies in the usual folder:
// NETUID=42 pm2 start ecosystem.config.js --only tessera-miner
const start = process.env.START;

function neuron(role) {
  return {
    name: `tessera-${role}`,
    script: start || `${process.env.HOME}/.config/tessera/${role}-netuid${process.env.NETUID}/start`,
    interpreter: "sh",
    autorestart: true,
    restart_delay: 15000,
    // 0: the run has ended. 2: an operator has to change something first.
    stop_exit_codes: [0, 2],
    kill_timeout: 30000,
    merge_logs: true,
  };
}

module.exports = { apps: [neuron("miner"), neuron("validator")] };
