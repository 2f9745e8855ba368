//! The programs built from Go modules. A family's go.mod and go.sum are in its folder under
//! `lab/components`.

use super::golang::Family;
use super::replaced::Replaced;

macro_rules! module {
    ($name:literal, $file:literal) => {
        include_str!(concat!("../../components/", $name, "/", $file))
    };
}

/// kubeadm, kubelet, kubectl, the control plane's programs and kube-proxy.
pub const KUBERNETES: Family = Family {
    name: "kubernetes",
    version: "1.36.3",
    go_mod: module!("kubernetes", "go.mod"),
    go_sum: module!("kubernetes", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: false,
    variables: &[
        ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "36"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
        ("k8s.io/component-base/version.gitCommit", "lab"),
        (
            "k8s.io/component-base/version.buildDate",
            "1970-01-01T00:00:00Z",
        ),
        ("k8s.io/client-go/pkg/version.gitVersion", "v1.36.3"),
        ("k8s.io/client-go/pkg/version.gitMajor", "1"),
        ("k8s.io/client-go/pkg/version.gitMinor", "36"),
        ("k8s.io/client-go/pkg/version.gitTreeState", "clean"),
        ("k8s.io/client-go/pkg/version.gitCommit", "lab"),
        (
            "k8s.io/client-go/pkg/version.buildDate",
            "1970-01-01T00:00:00Z",
        ),
    ],
    renamed: &[],
    files: &[],
    folders: &[],
    replaced: &[],
};

/// containerd, its shim and ctr.
pub const CONTAINERD: Family = Family {
    name: "containerd",
    version: "2.3.4",
    go_mod: module!("containerd", "go.mod"),
    go_sum: module!("containerd", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: false,
    variables: &[(
        "github.com/containerd/containerd/v2/version.Version",
        "v2.3.4",
    )],
    renamed: &[],
    files: &[],
    folders: &[],
    replaced: &[],
};

/// runc: Debian 12's own is too old for this containerd.
pub const RUNC: Family = Family {
    name: "runc",
    version: "1.4.3",
    go_mod: module!("runc", "go.mod"),
    go_sum: module!("runc", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: true,
    variables: &[],
    renamed: &[],
    files: &[],
    folders: &[],
    replaced: &[],
};

/// etcd, etcdctl and etcdutl.
pub const ETCD: Family = Family {
    name: "etcd",
    version: "3.6.16",
    go_mod: module!("etcd", "go.mod"),
    go_sum: module!("etcd", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: false,
    variables: &[],
    renamed: &[("server", "etcd")],
    files: &[],
    folders: &[],
    replaced: &[],
};

/// The cluster's DNS server, with the plugins that kubeadm's Corefile names: all others, which
/// include the clients of three clouds, would double the time to compile.
pub const COREDNS: Family = Family {
    name: "coredns",
    version: "1.14.7",
    go_mod: module!("coredns", "go.mod"),
    go_sum: module!("coredns", "go.sum"),
    sources: &[("coredns/main.go", module!("coredns", "main.go"))],
    toolchain: "auto",
    cgo: false,
    variables: &[],
    renamed: &[],
    files: &[],
    folders: &[],
    replaced: &[],
};

/// The reference CNI plugins.
pub const CNI: Family = Family {
    name: "cni",
    version: "1.9.1",
    go_mod: module!("cni", "go.mod"),
    go_sum: module!("cni", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: false,
    variables: &[(
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        "v1.9.1",
    )],
    renamed: &[],
    files: &[],
    folders: &[],
    replaced: &[],
};

/// Calico's node agent, CNI plugins and controllers. v3.28.5 is the last release that the module
/// proxy has. It needs Go 1.24: later versions refuse the URL that it writes for the API server's
/// address.
pub const CALICO: Family = Family {
    name: "calico",
    version: "3.28.5",
    go_mod: module!("calico", "go.mod"),
    go_sum: module!("calico", "go.sum"),
    sources: &[],
    toolchain: "go1.24.6",
    cgo: false,
    variables: &[
        ("main.VERSION", "v3.28.5"),
        (
            "github.com/projectcalico/calico/node/pkg/lifecycle/startup.VERSION",
            "v3.28.5",
        ),
        (
            "github.com/projectcalico/calico/felix/buildinfo.GitVersion",
            "v3.28.5",
        ),
    ],
    renamed: &[],
    files: &[(
        "github.com/projectcalico/calico",
        "manifests/calico-vxlan.yaml",
    )],
    folders: &[],
    replaced: &[],
};

/// The ingress controller. Two of its modules are not published, and its clients of some two
/// hundred DNS services, for certificates, are not needed here.
pub const TRAEFIK: Family = Family {
    name: "traefik",
    version: "3.7.13",
    go_mod: module!("traefik", "go.mod"),
    go_sum: module!("traefik", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: false,
    variables: &[(
        "github.com/traefik/traefik/v3/pkg/version.Version",
        "3.7.13",
    )],
    renamed: &[],
    files: &[],
    folders: &[],
    replaced: &[
        Replaced {
            folder: "ext",
            origin: None,
            without: &[],
            with: &[
                ("go.mod", module!("traefik", "ext/go.mod.txt")),
                ("ext.go", module!("traefik", "ext/ext.go")),
            ],
        },
        Replaced {
            folder: "auth",
            origin: Some("github.com/abbot/go-http-auth@v0.4.0"),
            without: &["examples"],
            with: &[
                ("go.mod", module!("traefik", "auth/go.mod.txt")),
                ("traefik.go", module!("traefik", "auth/traefik.go")),
            ],
        },
        Replaced {
            folder: "lego",
            origin: Some("github.com/go-acme/lego/v5@v5.4.1"),
            without: &["cmd", "e2e", "main.go", "providers/dns"],
            with: &[("providers/dns/none.go", module!("traefik", "lego/none.go"))],
        },
    ],
};

/// The provisioner of volumes in the nodes' folders. v0.0.30 is the last release that the module
/// proxy has.
pub const LOCAL_PATH: Family = Family {
    name: "local-path-provisioner",
    version: "0.0.30",
    go_mod: module!("local-path-provisioner", "go.mod"),
    go_sum: module!("local-path-provisioner", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: false,
    variables: &[("main.VERSION", "v0.0.30")],
    renamed: &[],
    files: &[(
        "github.com/rancher/local-path-provisioner",
        "deploy/local-path-storage.yaml",
    )],
    folders: &[],
    replaced: &[],
};

/// The server of metrics about CPU and memory, with the Kustomizations of its manifest.
pub const METRICS_SERVER: Family = Family {
    name: "metrics-server",
    version: "0.9.0",
    go_mod: module!("metrics-server", "go.mod"),
    go_sum: module!("metrics-server", "go.sum"),
    sources: &[],
    toolchain: "auto",
    cgo: false,
    variables: &[("k8s.io/client-go/pkg/version.gitVersion", "v0.9.0")],
    renamed: &[],
    files: &[],
    folders: &[("sigs.k8s.io/metrics-server", "manifests")],
    replaced: &[],
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_family_names_its_programs_and_none_replaces_by_a_folder() {
        for family in [
            &KUBERNETES,
            &CONTAINERD,
            &RUNC,
            &ETCD,
            &COREDNS,
            &CNI,
            &CALICO,
            &TRAEFIK,
            &LOCAL_PATH,
            &METRICS_SERVER,
        ] {
            let module = format!("module lab/{}\n", family.name);
            assert!(family.go_mod.starts_with(&module), "{}", family.name);
            assert!(family.go_mod.contains("\ntool "), "{}", family.name);
            let folders: Vec<&str> = family.replaced.iter().map(|r| r.folder).collect();
            let named: Vec<&str> = family
                .go_mod
                .lines()
                .filter_map(|line| line.split_once("=> ./"))
                .map(|(_, folder)| folder)
                .collect();
            assert!(named.iter().all(|name| folders.contains(name)), "{named:?}");
            assert_eq!(named.len(), folders.len(), "{}", family.name);
        }
    }

    #[test]
    fn the_version_in_the_release_is_the_module_s() {
        for (family, line) in [
            (&KUBERNETES, "k8s.io/kubernetes v1.36.3"),
            (&CONTAINERD, "github.com/containerd/containerd/v2 v2.3.4"),
            (&RUNC, "github.com/opencontainers/runc v1.4.3"),
            (&ETCD, "go.etcd.io/etcd/server/v3 v3.6.16"),
            (&COREDNS, "github.com/coredns/coredns v1.14.7"),
            (&CNI, "github.com/containernetworking/plugins v1.9.1"),
            (&TRAEFIK, "github.com/traefik/traefik/v3 v3.7.13"),
            (
                &LOCAL_PATH,
                "github.com/rancher/local-path-provisioner v0.0.30",
            ),
            (&METRICS_SERVER, "sigs.k8s.io/metrics-server v0.9.0"),
        ] {
            assert!(line.ends_with(family.version), "{}", family.name);
            assert!(family.go_mod.contains(line), "{}", family.name);
        }
    }
}
