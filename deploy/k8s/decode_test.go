package k8s

import (
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// strictDecoder refuses every unknown field and every kind that is not listed here. Kubernetes' own types are those of 1.31, the
// oldest that is supported: a field of a later release is unknown, as it is to that API server. All these groups and versions are
// stable and not deprecated in 1.31 to 1.36; to let in another one means to look that up first.
//
// Of custom resources, those of the Gateway API (1.2) and the Prometheus Operator are read into their own types, whose modules
// are small. cert-manager's and the External Secrets Operator's bring half a cluster with them, so the fields that are used here
// are declared below.
func strictDecoder() (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, autoscalingv2.AddToScheme,
		networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
		gatewayv1.Install, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	scheme.AddKnownTypes(schema.GroupVersion{Group: "cert-manager.io", Version: "v1"}, &Certificate{}, &Issuer{})
	scheme.AddKnownTypes(schema.GroupVersion{Group: "external-secrets.io", Version: "v1"}, &ExternalSecret{})
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer(), nil
}

// reference names an object of the same namespace, or a cluster's.
type reference struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Certificate is cert-manager's.
type Certificate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		IsCA        bool            `json:"isCA"`
		CommonName  string          `json:"commonName"`
		DNSNames    []string        `json:"dnsNames"`
		SecretName  string          `json:"secretName"`
		Duration    metav1.Duration `json:"duration"`
		RenewBefore metav1.Duration `json:"renewBefore"`
		Usages      []string        `json:"usages"`
		IssuerRef   reference       `json:"issuerRef"`
		PrivateKey  struct {
			Algorithm      string `json:"algorithm"`
			Size           int    `json:"size"`
			RotationPolicy string `json:"rotationPolicy"`
		} `json:"privateKey"`
	} `json:"spec"`
}

// DeepCopyObject implements runtime.Object.
func (c *Certificate) DeepCopyObject() runtime.Object { clone := *c; return &clone }

// Issuer is cert-manager's.
type Issuer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SelfSigned *struct{} `json:"selfSigned"`
		CA         *struct {
			SecretName string `json:"secretName"`
		} `json:"ca"`
	} `json:"spec"`
}

// DeepCopyObject implements runtime.Object.
func (i *Issuer) DeepCopyObject() runtime.Object { clone := *i; return &clone }

// ExternalSecret is the External Secrets Operator's.
type ExternalSecret struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		RefreshInterval metav1.Duration `json:"refreshInterval"`
		SecretStoreRef  reference       `json:"secretStoreRef"`
		Target          struct {
			Name string `json:"name"`
		} `json:"target"`
		Data []struct {
			SecretKey string `json:"secretKey"`
			RemoteRef struct {
				Key      string `json:"key"`
				Property string `json:"property"`
			} `json:"remoteRef"`
		} `json:"data"`
	} `json:"spec"`
}

// DeepCopyObject implements runtime.Object.
func (e *ExternalSecret) DeepCopyObject() runtime.Object { clone := *e; return &clone }

func TestTheDecoderRefusesWhatTheAPIServerWould(t *testing.T) {
	t.Parallel()
	decoder, err := strictDecoder()
	require.NoError(t, err)
	for name, text := range map[string]string{
		"a field that there is none of":   "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: 1}\n",
		"a field of Kubernetes 1.32":      "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {resources: {requests: {cpu: 1}}}}}\n",
		"a field twice":                   "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: A, type: B}\n",
		"a version that is gone":          "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: a}\n",
		"a wrong type":                    "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: {}}\n",
		"a route's field that is not one": "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {hosts: [a]}\n",
		"a certificate's":                 "apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: a}\nspec: {dnsName: a}\n",
	} {
		_, _, err := decoder.Decode([]byte(text), nil, nil)
		require.Error(t, err, name)
	}
}
