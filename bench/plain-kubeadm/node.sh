# What a careful engineer writes into user-data: the steps of kubeadm's documentation, one after the
# other, with a check of each download's digest. The bench prepends the values of a run: for each
# download NAME_URL and NAME_SHA256, the versions, MIRROR (a registry for all images), and what the
# lab's containers need: CGROUP_DRIVER, KUBELET, KUBE_PROXY. restrict_oom_score_adj below and the
# ignored check of kubeadm are for the lab's containers as well.
set -eu
log=/var/log/bootstrap.log
step() { echo "$(date +%s.%N) $1" >>$log; }
fetch() {
  curl -fsSL --retry 5 -o "$3" "$1"
  echo "$2  $3" | sha256sum --check --quiet
}

step host
swapoff -a
printf 'overlay\nbr_netfilter\n' >/etc/modules-load.d/kubernetes.conf
# A kernel without loadable modules has them built in.
modprobe -a overlay br_netfilter || true
printf 'net.ipv4.ip_forward = 1\nnet.bridge.bridge-nf-call-iptables = 1\n' >/etc/sysctl.d/kubernetes.conf
sysctl --quiet --load /etc/sysctl.d/kubernetes.conf

step containerd
cd "$(mktemp -d)"
fetch "$CONTAINERD_URL" "$CONTAINERD_SHA256" containerd.tar.gz
tar -C /usr/local -xzf containerd.tar.gz
fetch "$RUNC_URL" "$RUNC_SHA256" runc
install -m 755 runc /usr/local/sbin/runc
fetch "$CNI_PLUGINS_URL" "$CNI_PLUGINS_SHA256" cni.tgz
mkdir -p /opt/cni/bin
tar -C /opt/cni/bin -xzf cni.tgz
mkdir -p /etc/containerd/certs.d/_default
printf '[host."%s"]\ncapabilities = ["pull", "resolve"]\n' "$MIRROR" >/etc/containerd/certs.d/_default/hosts.toml
cat >/etc/containerd/config.toml <<END
version = 3
[plugins."io.containerd.cri.v1.images"]
pinned_images = { sandbox = "registry.k8s.io/pause:$PAUSE_VERSION" }
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = $([ "$CGROUP_DRIVER" = systemd ] && echo true || echo false)
END
cat >/etc/systemd/system/containerd.service <<'END'
[Unit]
Description=containerd container runtime
After=network.target local-fs.target
[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
Restart=always
RestartSec=5
Delegate=yes
KillMode=process
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
OOMScoreAdjust=-999
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --quiet --now containerd

step kubernetes
fetch "$KUBEADM_URL" "$KUBEADM_SHA256" kubeadm
fetch "$KUBELET_URL" "$KUBELET_SHA256" kubelet
install -m 755 kubeadm kubelet /usr/local/bin
mkdir -p /etc/systemd/system/kubelet.service.d
cat >/etc/systemd/system/kubelet.service <<'END'
[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/usr/local/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10
[Install]
WantedBy=multi-user.target
END
cat >/etc/systemd/system/kubelet.service.d/10-kubeadm.conf <<'END'
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
END
systemctl daemon-reload
# It has no configuration before kubeadm writes one, and kubeadm starts it.
systemctl enable --quiet kubelet
