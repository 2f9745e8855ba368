
fetch "$KUBECTL_URL" "$KUBECTL_SHA256" kubectl
install -m 755 kubectl /usr/local/bin
step init
cat >kubeadm.yaml <<END
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration:
  imagePullSerial: false
  ignorePreflightErrors: [SystemVerification]
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v$KUBERNETES_VERSION
networking: { podSubnet: 192.168.0.0/16 }
etcd: { local: { imageTag: "$ETCD_TAG" } }
dns: { imageTag: "$COREDNS_TAG" }
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
$KUBE_PROXY
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: $CGROUP_DRIVER
$KUBELET
END
kubeadm init --config kubeadm.yaml
step network
# The manifest encapsulates between subnets only, and within a subnet EC2 drops packets with the
# addresses of pods.
fetch "$CALICO_URL" "$CALICO_SHA256" calico.yaml
sed -i -e '/name: CALICO_IPV4POOL_VXLAN/{n;s/CrossSubnet/Always/}' \
  -e 's/^\( *\)- name: CALICO_IPV4POOL_VXLAN$/\1- name: FELIX_NFTABLESMODE\n\1  value: Disabled\n&/' calico.yaml
kubectl --kubeconfig /etc/kubernetes/admin.conf apply --filename calico.yaml
step applied
