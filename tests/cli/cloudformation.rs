//! `cloudformation`: the template of a cluster's stack.

use crate::{k8s_bootstrap, with_stdin};

const STACK: [&str; 5] = [
    "cloudformation",
    "--cluster",
    "prod",
    "--url",
    "https://mirror.example.com/agent",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&STACK[..], more].concat()
}

#[test]
fn settings_and_the_pages_name_reach_the_instances() {
    let dns = [
        "--domain",
        "www.example.com",
        "--hosted-zone",
        "Z0123456789ABCDEFGHIJ",
    ];
    let args = with(&[&dns[..], &["--config", "-"]].concat());
    let stack = with_stdin(&args, "kubelet.config.maxPods = 20\n").printed();
    for expected in [
        "                kubelet.config.maxPods = 20\n",
        "                name = \"www.example.com\"\n",
        "hostedzone/Z0123456789ABCDEFGHIJ",
        "'https://mirror.example.com/agent'",
        "    Value: http://www.example.com/\n",
    ] {
        assert!(stack.contains(expected), "{expected} is not in\n{stack}");
    }
    // Behind a load balancer the name is the stack's, and no node may change the zone.
    let stack = k8s_bootstrap(&with(&[&dns[..], &["--size", "ha"]].concat())).printed();
    assert!(stack.contains("AWS::Route53::RecordSet"), "{stack}");
    assert!(!stack.contains("route53:"), "{stack}");
}

#[test]
fn contradictions_are_wrong_usage() {
    for (more, said) in [
        (&["--size", "large"][..], "[possible values: seed, ha]"),
        (&["--vpc", "vpc-01234567"], "--subnets"),
        (&["--domain", "www.example.com"], "--hosted-zone"),
        (
            &["--vpc-cidr", "192.168.4.0/22"],
            "overlaps cluster.pod_cidr",
        ),
        (
            &["--zones", "eu-central-1a,mars-1b"],
            "`mars-1b` is not an availability zone",
        ),
        (&["--workers", "many"], "invalid value 'many'"),
    ] {
        k8s_bootstrap(&with(more)).failed(2, &[said]);
    }
    with_stdin(&with(&["--config", "-"]), "cluster.pod_cidr = 'x'\n")
        .failed(3, &["cluster.pod_cidr: `x`"]);
}
