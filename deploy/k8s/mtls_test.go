package k8s

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// speaksTLS tells whether a variant is one with TLS between the services.
func speaksTLS(v built) bool { return strings.Contains(v.name, "TLS") }

// holders are the workloads that have a certificate, by its name.
func holders(t *testing.T, v built) map[string]workload {
	t.Helper()
	list := map[string]workload{}
	for _, service := range services() {
		list[service] = server(t, v, service)
	}
	for _, w := range workloads(v) {
		if w.name == "Job/bootstrap" {
			list["bootstrap"] = w
		}
	}
	require.Len(t, list, len(services())+1)
	return list
}

// certificate finds one by its name.
func certificate(t *testing.T, v built, name string) *Certificate {
	t.Helper()
	for _, found := range of[*Certificate](v) {
		if found.Name == name {
			return found
		}
	}
	require.Fail(t, "there is no Certificate "+name)
	return nil
}

func TestPeersSpeakTLSAllOrNone(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for name, w := range holders(t, v) {
			addresses := 0
			for setting, value := range configMap(t, v, name+"-config").Data {
				if !strings.HasSuffix(setting, "_INTERNAL_URL") {
					continue
				}
				addresses++
				address, err := url.Parse(value)
				require.NoError(t, err)
				if !speaksTLS(v) {
					require.Equal(t, "http", address.Scheme, "%s of %s", setting, name)
					continue
				}
				require.Equal(t, "https", address.Scheme, "%s of %s", setting, name)
				require.Contains(t, certificate(t, v, address.Hostname()).Spec.DNSNames, address.Hostname(), "a peer is believed by this name")
			}
			require.NotZero(t, addresses, name)
			told := environment(t, v, w.container(t))
			for _, setting := range []string{"TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"} {
				_, found := told[setting]
				require.Equal(t, speaksTLS(v), found, "%s of %s", setting, name)
			}
		}
		if !speaksTLS(v) {
			require.Empty(t, of[*Certificate](v))
			require.Empty(t, of[*Issuer](v))
		}
	})
}

func TestACertificateIsWhereTheServiceReadsIt(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		if !speaksTLS(v) {
			return
		}
		for name, w := range holders(t, v) {
			pod, c := w.template.Spec, w.container(t)
			at := slices.IndexFunc(pod.Volumes, func(volume corev1.Volume) bool { return volume.Secret != nil })
			require.GreaterOrEqual(t, at, 0, name)
			secret := pod.Volumes[at].Secret
			require.Equal(t, certificate(t, v, name).Spec.SecretName, secret.SecretName)
			require.Equal(t, int32(0o440), *secret.DefaultMode, "nobody else reads the key")
			require.Equal(t, *pod.SecurityContext.RunAsGroup, *pod.SecurityContext.FSGroup, "and the service does")
			at = slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == pod.Volumes[at].Name })
			require.GreaterOrEqual(t, at, 0, name)
			mount := c.VolumeMounts[at]
			require.True(t, mount.ReadOnly, name)
			require.Empty(t, mount.SubPath, "a mounted file alone is never renewed")
			for setting, key := range map[string]string{"TLS_CERT_FILE": "tls.crt", "TLS_KEY_FILE": "tls.key", "TLS_CA_FILE": "ca.crt"} {
				require.Contains(t, c.Env, corev1.EnvVar{Name: setting, Value: mount.MountPath + "/" + key}, name)
				require.True(t, secretKeys(v)[secret.SecretName][key], name)
			}
		}
	})
}

func TestOneAuthorityIssuesToServicesAndRenewsInTime(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		if !speaksTLS(v) {
			return
		}
		issuers := map[string]*Issuer{}
		for _, issuer := range of[*Issuer](v) {
			issuers[issuer.Name] = issuer
		}
		require.Len(t, of[*Certificate](v), len(holders(t, v))+1)
		var authorities []string
		for name := range holders(t, v) {
			leaf := certificate(t, v, name)
			require.False(t, leaf.Spec.IsCA, name)
			require.Subset(t, leaf.Spec.Usages, []string{"digital signature", "server auth", "client auth"}, "the services refuse others")
			require.Equal(t, "Always", leaf.Spec.PrivateKey.RotationPolicy, name)
			require.GreaterOrEqual(t, leaf.Spec.RenewBefore.Duration, 7*24*time.Hour, "the alarm comes three days before the end")
			require.Less(t, leaf.Spec.RenewBefore.Duration, leaf.Spec.Duration.Duration, name)
			if name != "bootstrap" {
				require.Subset(t, leaf.Spec.DNSNames, []string{name, name + "." + leaf.Namespace, name + "." + leaf.Namespace + ".svc"})
			}
			require.Equal(t, "Issuer", leaf.Spec.IssuerRef.Kind)
			require.Contains(t, issuers, leaf.Spec.IssuerRef.Name)
			authorities = append(authorities, issuers[leaf.Spec.IssuerRef.Name].Spec.CA.SecretName)
		}
		require.Len(t, slices.Compact(authorities), 1, "all believe one authority")

		at := slices.IndexFunc(of[*Certificate](v), func(c *Certificate) bool { return c.Spec.SecretName == authorities[0] })
		require.GreaterOrEqual(t, at, 0)
		authority := of[*Certificate](v)[at]
		require.True(t, authority.Spec.IsCA)
		require.NotEmpty(t, authority.Spec.CommonName)
		require.NotNil(t, issuers[authority.Spec.IssuerRef.Name].Spec.SelfSigned)
		require.Equal(t, "Never", authority.Spec.PrivateKey.RotationPolicy, "certificates of two keys at once would not believe each other")
		longest := certificate(t, v, "registry").Spec.Duration.Duration
		require.Greater(t, authority.Spec.RenewBefore.Duration, 2*longest, "every service has the later certificate when the earlier ends")
	})
}

func TestPrometheusBelievesTheServices(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, monitor := range of[*monitoringv1.ServiceMonitor](v) {
			require.Len(t, monitor.Spec.Endpoints, 1)
			endpoint := monitor.Spec.Endpoints[0]
			if !speaksTLS(v) {
				require.Empty(t, endpoint.Scheme)
				require.Nil(t, endpoint.TLSConfig)
				continue
			}
			require.Equal(t, "https", endpoint.Scheme)
			require.False(t, endpoint.TLSConfig.InsecureSkipVerify)
			require.Contains(t, certificate(t, v, monitor.Name).Spec.DNSNames, endpoint.TLSConfig.ServerName)
			ca := endpoint.TLSConfig.CA.Secret
			require.Equal(t, certificate(t, v, monitor.Name).Spec.SecretName, ca.Name)
			require.True(t, secretKeys(v)[ca.Name][ca.Key])
			require.Nil(t, endpoint.TLSConfig.KeySecret, "metrics take no certificate")
		}
	})
}
