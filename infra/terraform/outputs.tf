output "page" {
  description = "The page, once the workers are Ready."
  value       = aws_cloudformation_stack.cluster.outputs["Page"]
}

output "region" {
  description = "Where the cluster is."
  value       = aws_cloudformation_stack.cluster.outputs["Region"]
}

output "control_plane_group" {
  description = "The control planes' Auto Scaling group."
  value       = aws_cloudformation_stack.cluster.outputs["ControlPlaneGroup"]
}

output "worker_group" {
  description = "The workers' Auto Scaling group."
  value       = aws_cloudformation_stack.cluster.outputs["WorkerGroup"]
}

output "backups" {
  description = "The bucket of the cluster's backups, which stays when the stack is deleted. Null if the settings name another place."
  value       = lookup(aws_cloudformation_stack.cluster.outputs, "Backups", null)
}

output "identity_provider" {
  description = "The ARN of the identity provider for pods' roles. Null without --pod-roles."
  value       = lookup(aws_cloudformation_stack.cluster.outputs, "IdentityProvider", null)
}

output "issuer" {
  description = "The issuer of pods' tokens, without https://. Null without --pod-roles."
  value       = lookup(aws_cloudformation_stack.cluster.outputs, "Issuer", null)
}

output "stack_id" {
  description = "The stack's ARN."
  value       = aws_cloudformation_stack.cluster.id
}
