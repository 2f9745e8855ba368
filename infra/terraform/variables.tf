variable "name" {
  description = "Name of the stack; the cluster's name is a good choice. Another name means another stack: Terraform deletes this one, with its cluster, first."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9-]{0,127}$", var.name))
    error_message = "Use a letter, then letters, digits and hyphens; at most 128 in all."
  }
}

variable "template" {
  description = "Path of the file that `k8s-bootstrap cloudformation` printed."
  type        = string

  validation {
    condition     = fileexists(var.template)
    error_message = "There is no such file. Render it: k8s-bootstrap cloudformation --cluster NAME --url URL > stack.yaml"
  }
  validation {
    # A file that is missing is the other block's subject.
    condition     = !fileexists(var.template) || can(keys(yamldecode(file(var.template)).Parameters))
    error_message = "The file is not a template of k8s-bootstrap. It is empty if the command failed: render it again and read what the command says."
  }
}

variable "parameters" {
  description = "Values of the template's parameters, as strings: Workers, InstanceType, and Image, which is the name of a public parameter in Systems Manager. One that is left out has the template's default."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "tags" {
  description = "Tags of the stack. CloudFormation gives them to its resources, the instances among them."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/work-with-tags-in-IMDS.html
    condition     = alltrue([for key in keys(var.tags) : can(regex("^[A-Za-z0-9+=.,_:@-]+$", key))])
    error_message = "Use only letters, digits and + - = . , _ : @ in keys: instances read their tags from the metadata service, and EC2 launches none that has a tag with another key."
  }
  validation {
    condition     = alltrue([for key in keys(var.tags) : key != "Name" && !startswith(key, "k8s-bootstrap:") && !startswith(lower(key), "aws:")])
    error_message = "Leave out Name and keys that begin with k8s-bootstrap: or aws:. The template sets the first two, an instance learns its cluster and role from the second, and the last are AWS's own."
  }
}

variable "on_failure" {
  description = "What CloudFormation does when it cannot create the stack: ROLLBACK deletes the resources and keeps the stack with the reason, DELETE deletes both, DO_NOTHING leaves all of it to look at. Changing it later has no effect."
  type        = string
  default     = "ROLLBACK"
  nullable    = false

  validation {
    condition     = contains(["ROLLBACK", "DELETE", "DO_NOTHING"], var.on_failure)
    error_message = "Use ROLLBACK, DELETE or DO_NOTHING."
  }
}
