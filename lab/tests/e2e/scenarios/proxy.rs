//! A cluster whose machines reach the outside only through a forward proxy.

use lab::{layout::Layout, network::OUTSIDE};
use libtest_mimic::Failed;

use crate::stage::{ONLY_THE_NETWORK, Stage, ensure, until};

pub fn a_control_plane_behind_a_proxy_founds_its_cluster(stage: &Stage) -> Result<(), Failed> {
    let layout = Layout::find()?;
    let file = layout.run().join("proxied.toml");
    std::fs::write(&file, ONLY_THE_NETWORK)?;
    let file = file.to_string_lossy();
    let tag = "k8s-bootstrap:cluster=proxied";
    let options = ["--behind-proxy", "--tag", tag, "--settings", &file];
    let machine = stage.launch_as("control-plane", &options)?;

    let directly = format!("! curl --silent --max-time 3 --noproxy '*' http://{OUTSIDE}/");
    stage.shell(&machine, &directly)?;
    until(600, "the node", || {
        let status = stage.agent(&machine)?;
        ensure(status["stage"] == "ready", status["message"].to_string())
    })?;
    let log = std::fs::read_to_string(layout.proxy_log())?;
    for asked in [
        // The agent by curl, what the agent fetches, an image by containerd, AWS by the agent.
        format!("GET http://{OUTSIDE}/k8s-bootstrap/"),
        format!("GET http://{OUTSIDE}/dl.k8s.io/"),
        format!("GET http://{OUTSIDE}:5000/v2/etcd/"),
        "CONNECT ssm.eu-central-1.amazonaws.com:443".to_owned(),
        "CONNECT ec2.eu-central-1.amazonaws.com:443".to_owned(),
    ] {
        ensure(log.contains(&asked), format!("no request `{asked}`"))?;
    }
    // Half of the proxy's settings in a static pod would send the API server's own requests there.
    let pods = "! grep --ignore-case --files-with-matches _proxy /etc/kubernetes/manifests/*.yaml";
    stage.shell(&machine, pods)?;
    stage.lab(&["terminate", &machine, "--hard"]).map(drop)
}
