// Package k8s is the home of the Kubernetes manifests; see README.md beside it. The package holds only their tests:
// what is here is built by kustomize and read strictly as the API server would, without a cluster.
package k8s
