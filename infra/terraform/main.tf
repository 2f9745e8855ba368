# One CloudFormation stack: the one that `k8s-bootstrap cloudformation` renders.

terraform {
  required_version = ">= 1.10, < 2.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0"
    }
  }
}

locals {
  body = file(var.template)
  # length() counts characters. Base64 has 4 for each 3 bytes, and its padding does not count.
  bytes      = floor(length(trim(filebase64(var.template), "=")) * 3 / 4)
  limit      = 51200
  parameters = keys(yamldecode(local.body).Parameters)
  unknown    = setsubtract(keys(var.parameters), local.parameters)
}

resource "aws_cloudformation_stack" "cluster" {
  name          = var.name
  template_body = local.body
  parameters    = var.parameters
  tags          = var.tags
  on_failure    = var.on_failure

  # The template names its two roles: nodes are admitted by their role's name.
  capabilities = ["CAPABILITY_NAMED_IAM"]

  # CloudFormation goes on by itself when Terraform stops waiting. A delete takes up to ten minutes:
  # a group waits five for a node that cannot be drained.
  timeouts {
    create = "30m"
    update = "30m"
    delete = "30m"
  }

  lifecycle {
    # They matter only while a stack is created. The provider would replace the stack, and thereby
    # the cluster, if one of them changed, or if a stack was imported that has others.
    ignore_changes = [on_failure, disable_rollback, timeout_in_minutes]

    precondition {
      condition     = local.bytes <= local.limit
      error_message = "${var.template} has ${local.bytes} bytes, but CloudFormation accepts at most ${local.limit}. Render it with fewer settings: put large ones into the image as /etc/k8s-bootstrap/config.toml."
    }
    precondition {
      condition     = length(local.unknown) == 0
      error_message = "The template has no parameter ${join(", ", local.unknown)}; it has ${join(", ", local.parameters)}. Everything else is an option of `k8s-bootstrap cloudformation`: render the template again."
    }
  }
}
