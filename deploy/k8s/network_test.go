package k8s

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// outside is what a rule calls by something else than the labels of our own pods.
const (
	theIngress    = "namespaces agentidp.io/ingress=true"
	theMonitoring = "namespaces agentidp.io/monitoring=true"
	theDNS        = "DNS"
	anywhere      = "anywhere"
	publicIPv4    = "network 0.0.0.0/0 except 10.0.0.0/8 100.64.0.0/10 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16"
	publicIPv6    = "network ::/0 except fc00::/7 fe80::/10"
)

// flows are all connections that the policies of a variant let through at both ends, as "from -> to:port"; the second list has
// those that only one end allows, which is a mistake.
func flows(t *testing.T, v built) (open, half []string) {
	t.Helper()
	out, in := map[string]bool{}, map[string]bool{}
	for _, policy := range of[*networkingv1.NetworkPolicy](v) {
		require.NotEmpty(t, policy.Spec.PolicyTypes, policy.Name)
		egress, ingress := policy.Spec.Egress, policy.Spec.Ingress
		// Rules of a direction that a policy is not for say nothing.
		if !slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			egress = nil
		}
		if !slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
			ingress = nil
		}
		for _, w := range found(t, v, &policy.Spec.PodSelector) {
			for _, rule := range egress {
				for _, to := range peers(t, v, rule.To) {
					for _, port := range ports(t, rule.Ports) {
						out[w+" -> "+to+port] = true
					}
				}
			}
			for _, rule := range ingress {
				for _, from := range peers(t, v, rule.From) {
					for _, port := range ports(t, rule.Ports) {
						in[from+" -> "+w+port] = true
					}
				}
			}
		}
	}
	ours := map[string]bool{}
	for _, w := range workloads(v) {
		ours[w.name] = true
	}
	for flow := range out {
		_, to, _ := strings.Cut(flow, " -> ")
		if to = to[:strings.LastIndex(to, ":")]; in[flow] || !ours[to] {
			open = append(open, flow)
		} else {
			half = append(half, flow)
		}
	}
	for flow := range in {
		if from, _, _ := strings.Cut(flow, " -> "); out[flow] || !ours[from] {
			open = append(open, flow)
		} else {
			half = append(half, flow)
		}
	}
	slices.Sort(open)
	slices.Sort(half)
	return slices.Compact(open), slices.Compact(half)
}

// found are the names of the workloads whose pods a selector matches.
func found(t *testing.T, v built, selector *metav1.LabelSelector) []string {
	t.Helper()
	match, err := metav1.LabelSelectorAsSelector(selector)
	require.NoError(t, err)
	var names []string
	for _, w := range workloads(v) {
		if match.Matches(labels.Set(w.template.Labels)) {
			names = append(names, w.name)
		}
	}
	return names
}

func peers(t *testing.T, v built, list []networkingv1.NetworkPolicyPeer) []string {
	t.Helper()
	if len(list) == 0 {
		return []string{anywhere}
	}
	var names []string
	for _, peer := range list {
		switch {
		case peer.IPBlock != nil:
			name := "network " + peer.IPBlock.CIDR
			if except := slices.Sorted(slices.Values(peer.IPBlock.Except)); len(except) > 0 {
				name += " except " + strings.Join(except, " ")
			}
			names = append(names, name)
		case peer.NamespaceSelector != nil && peer.PodSelector != nil:
			require.Equal(t, "kube-dns", peer.PodSelector.MatchLabels["k8s-app"])
			names = append(names, theDNS)
		case peer.NamespaceSelector != nil:
			names = append(names, "namespaces "+labels.FormatLabels(peer.NamespaceSelector.MatchLabels))
		default:
			pods := found(t, v, peer.PodSelector)
			require.NotEmpty(t, pods, "a rule for pods that do not exist: %v", peer.PodSelector)
			names = append(names, pods...)
		}
	}
	return names
}

func ports(t *testing.T, list []networkingv1.NetworkPolicyPort) []string {
	t.Helper()
	require.NotEmpty(t, list, "a rule for all ports")
	var names []string
	for _, port := range list {
		name := fmt.Sprintf(":%d", port.Port.IntVal)
		if port.Protocol != nil && *port.Protocol != corev1.ProtocolTCP {
			name += "/" + string(*port.Protocol)
		}
		names = append(names, name)
	}
	return names
}

// design is every connection of the services' own, whatever surrounds them.
func design() []string {
	list := []string{
		"Deployment/token -> Deployment/registry:9090",
		"Deployment/token -> Deployment/credentials:9090",
		"Deployment/credentials -> Deployment/registry:9090",
		"Deployment/registry -> Deployment/token:9090",
		"Deployment/credentials -> Deployment/token:9090",
		"Deployment/audit -> Deployment/token:9090",
		"Job/bootstrap -> Deployment/registry:9090",
		"Job/bootstrap -> Deployment/credentials:9090",
		"Job/bootstrap -> anywhere:443",
		"Job/bootstrap -> anywhere:6443",
		"Job/bootstrap -> anywhere:8443",
		"Deployment/token -> " + publicIPv4 + ":443",
		"Deployment/token -> " + publicIPv6 + ":443",
	}
	for _, service := range services() {
		list = append(list,
			theIngress+" -> Deployment/"+service+":8080",
			theMonitoring+" -> Deployment/"+service+":9090")
	}
	return list
}

// storing are the workloads that use Postgres, Redis and NATS.
func storing() []string {
	list := []string{"CronJob/audit-retention"}
	for _, service := range services() {
		list = append(list, "Deployment/"+service, "Job/"+service+"-migration")
	}
	return list
}

func TestPodsReachWhatTheDesignSaysAndNothingElse(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		want := design()
		for _, w := range workloads(v) {
			want = append(want, w.name+" -> "+theDNS+":53", w.name+" -> "+theDNS+":53/UDP")
		}
		stores := map[string][]string{
			"network 10.20.0.0/24:5432": nil, "network 10.20.1.0/24:6379": nil, "network 10.20.2.0/24:4222": nil,
		}
		if strings.HasPrefix(v.name, "kind") {
			stores = map[string][]string{"StatefulSet/postgres:5432": nil, "StatefulSet/redis:6379": nil, "StatefulSet/nats:4222": nil}
		}
		for _, from := range storing() {
			for to := range stores {
				want = append(want, from+" -> "+to)
			}
		}
		if slices.ContainsFunc(workloads(v), func(w workload) bool { return w.name == "Deployment/ingress" }) {
			want = append(want, "anywhere -> Deployment/ingress:8080")
			for _, service := range services() {
				want = append(want, "Deployment/ingress -> Deployment/"+service+":8080")
			}
		}
		if strings.HasSuffix(v.name, "all") || strings.HasSuffix(v.name, "audit-witnesses") {
			want = append(want, "Deployment/audit -> "+publicIPv4+":443", "Deployment/audit -> "+publicIPv6+":443")
		}
		if strings.HasSuffix(v.name, "all") || strings.HasSuffix(v.name, "vault") {
			want = append(want, "Deployment/credentials -> namespaces kubernetes.io/metadata.name=vault:8200")
		}
		slices.Sort(want)
		open, half := flows(t, v)
		require.Equal(t, want, open)
		require.Empty(t, half, "allowed at one end only")
	})
}

func TestNothingIsReachableUnlessAPolicySaysSo(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, policy := range of[*networkingv1.NetworkPolicy](v) {
			if policy.Name != "default-deny" {
				continue
			}
			require.Empty(t, policy.Spec.PodSelector.MatchLabels)
			require.ElementsMatch(t, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
				policy.Spec.PolicyTypes)
			require.Empty(t, policy.Spec.Ingress)
			require.Empty(t, policy.Spec.Egress)
			return
		}
		require.Fail(t, "there is no default-deny policy")
	})
}
