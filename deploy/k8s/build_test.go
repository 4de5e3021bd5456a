package k8s

import (
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// build is `kustomize build` of a directory, each object decoded as strictly as the API server of the oldest supported
// Kubernetes does: k8s.io/api is required at that release, so a field that came later is an unknown one.
func build(t *testing.T, dir string) []runtime.Object {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	require.NoError(t, err, dir)
	decoder := strictDecoder(t)
	objects := make([]runtime.Object, 0, built.Size())
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		require.NoError(t, err)
		object, _, err := decoder.Decode(text, nil, nil)
		require.NoError(t, err, "%s: %s", dir, text)
		objects = append(objects, object)
	}
	return objects
}

func strictDecoder(t *testing.T) runtime.Decoder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, autoscalingv2.AddToScheme,
		networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
	} {
		require.NoError(t, add(scheme))
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

func TestNothingIsReachableUnlessAPolicySaysSo(t *testing.T) {
	t.Parallel()
	for _, object := range build(t, "base") {
		policy, ok := object.(*networkingv1.NetworkPolicy)
		if !ok || policy.Name != "default-deny" {
			continue
		}
		require.Empty(t, policy.Spec.PodSelector.MatchLabels)
		require.ElementsMatch(t, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			policy.Spec.PolicyTypes)
		require.Empty(t, policy.Spec.Ingress)
		require.Empty(t, policy.Spec.Egress)
		return
	}
	require.Fail(t, "the base has no default-deny policy")
}
