// Package ext holds what distributions of Traefik add to its configuration, which
// is nothing here.
package ext

// HTTP is what is added to the HTTP configuration.
type HTTP struct{}

// DeepCopyInto copies nothing.
func (*HTTP) DeepCopyInto(*HTTP) {}

// Router is what is added to a router.
type Router struct{}

// DeepCopyInto copies nothing.
func (*Router) DeepCopyInto(*Router) {}
