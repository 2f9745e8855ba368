
# ENDPOINT, TOKEN and CA_HASH are from `kubeadm token create --print-join-command`.
step join
kubeadm join "$ENDPOINT" --token "$TOKEN" --discovery-token-ca-cert-hash "$CA_HASH" \
  --ignore-preflight-errors SystemVerification
step joined
