package k8s

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// workload is anything that makes pods.
type workload struct {
	name     string // kind/name
	template corev1.PodTemplateSpec
	serves   bool // it is meant to run until it is told to stop
}

func workloads(v built) []workload {
	var list []workload
	for _, w := range of[*appsv1.Deployment](v) {
		list = append(list, workload{"Deployment/" + w.Name, w.Spec.Template, true})
	}
	for _, w := range of[*appsv1.StatefulSet](v) {
		list = append(list, workload{"StatefulSet/" + w.Name, w.Spec.Template, true})
	}
	for _, w := range of[*batchv1.Job](v) {
		list = append(list, workload{"Job/" + w.Name, w.Spec.Template, false})
	}
	for _, w := range of[*batchv1.CronJob](v) {
		list = append(list, workload{"CronJob/" + w.Name, w.Spec.JobTemplate.Spec.Template, false})
	}
	return list
}

// container is the one that each of our pods has.
func (w workload) container(t *testing.T) corev1.Container {
	t.Helper()
	require.Len(t, w.template.Spec.Containers, 1, w.name)
	require.Empty(t, w.template.Spec.InitContainers, w.name)
	return w.template.Spec.Containers[0]
}

func TestPodsMayDoNothingThatTheyNeedNot(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, w := range workloads(v) {
			pod, c := w.template.Spec, w.container(t)
			require.NotNil(t, pod.SecurityContext, w.name)
			require.NotNil(t, c.SecurityContext, w.name)
			require.True(t, *pod.SecurityContext.RunAsNonRoot, w.name)
			require.Positive(t, *pod.SecurityContext.RunAsUser, w.name)
			require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type, w.name)
			require.False(t, *c.SecurityContext.AllowPrivilegeEscalation, w.name)
			require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem, w.name)
			require.Equal(t, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, c.SecurityContext.Capabilities, w.name)
			require.Nil(t, c.SecurityContext.Privileged, w.name)
			require.False(t, pod.HostNetwork || pod.HostPID || pod.HostIPC, w.name)
			for _, volume := range pod.Volumes {
				require.Nil(t, volume.HostPath, w.name)
			}
			require.NotContains(t, []string{"", "default"}, pod.ServiceAccountName, w.name)
			require.Equal(t, w.name == "Job/bootstrap", *pod.AutomountServiceAccountToken,
				"%s: only the pod that writes a Secret has a token", w.name)
			require.False(t, *pod.EnableServiceLinks, "%s: the variables that they make could be taken for settings", w.name)
		}
		for _, account := range of[*corev1.ServiceAccount](v) {
			require.False(t, *account.AutomountServiceAccountToken, account.Name)
		}
		for _, namespace := range of[*corev1.Namespace](v) {
			require.Equal(t, "restricted", namespace.Labels["pod-security.kubernetes.io/enforce"])
		}
	})
}

func TestImagesHaveAVersion(t *testing.T) {
	t.Parallel()
	pinned := regexp.MustCompile(`^[^@]+:([A-Za-z0-9_][A-Za-z0-9._-]*)$`)
	everyVariant(t, func(t *testing.T, v built) {
		for _, w := range workloads(v) {
			tag := pinned.FindStringSubmatch(w.container(t).Image)
			require.NotNil(t, tag, "%s: %s", w.name, w.container(t).Image)
			require.NotEqual(t, "latest", tag[1], w.name)
		}
	})
}

func TestPodsAskForWhatTheyUse(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, w := range workloads(v) {
			c := w.container(t)
			require.False(t, c.Resources.Requests.Cpu().IsZero(), w.name)
			require.False(t, c.Resources.Requests.Memory().IsZero(), w.name)
			limit := c.Resources.Limits.Memory().Value()
			require.GreaterOrEqual(t, limit, c.Resources.Requests.Memory().Value(), w.name)
			require.True(t, c.Resources.Limits.Cpu().IsZero(), "%s: no pod is throttled", w.name)
			for _, variable := range c.Env {
				if variable.Name != "GOMEMLIMIT" {
					continue
				}
				mebibytes, err := time.ParseDuration(strings.Replace(variable.Value, "MiB", "s", 1)) // a number and a unit
				require.NoError(t, err)
				share := mebibytes.Seconds() * (1 << 20) / float64(limit)
				require.InDelta(t, 0.9, share, 0.03, "%s: %s of %d", w.name, variable.Value, limit)
			}
		}
	})
}

func TestWhatServesIsWatchedOnAPortThatIsThere(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, w := range workloads(v) {
			c := w.container(t)
			if !w.serves {
				require.Equal(t, corev1.RestartPolicyNever, w.template.Spec.RestartPolicy, w.name)
				continue
			}
			require.NotNil(t, c.LivenessProbe, w.name)
			require.NotNil(t, c.ReadinessProbe, w.name)
			ports := map[string]bool{}
			for _, port := range c.Ports {
				ports[port.Name] = true
			}
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if probe == nil {
					continue
				}
				require.Greater(t, probe.TimeoutSeconds, int32(1), "%s: a node may be busy", w.name)
				if probe.HTTPGet != nil {
					require.True(t, ports[probe.HTTPGet.Port.StrVal], w.name)
				}
				if probe.TCPSocket != nil {
					require.True(t, ports[probe.TCPSocket.Port.StrVal], w.name)
				}
			}
		}
	})
}

func TestAServiceIsProbedWhereNoIngressLeads(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, service := range services() {
			c := server(t, v, service).container(t)
			require.Equal(t, []corev1.ContainerPort{
				{Name: "public", ContainerPort: 8080, Protocol: ""}, {Name: "internal", ContainerPort: 9090, Protocol: ""},
			}, c.Ports)
			want := corev1.URIScheme("")
			if len(of[*Certificate](v)) > 0 {
				want = corev1.URISchemeHTTPS
			}
			for probe, path := range map[*corev1.Probe]string{c.StartupProbe: "/healthz", c.LivenessProbe: "/healthz", c.ReadinessProbe: "/readyz"} {
				require.Equal(t, "internal", probe.HTTPGet.Port.StrVal)
				require.Equal(t, path, probe.HTTPGet.Path)
				require.Equal(t, want, probe.HTTPGet.Scheme, service)
			}
		}
	})
}

// server is the Deployment of a service.
func server(t *testing.T, v built, service string) workload {
	t.Helper()
	for _, w := range workloads(v) {
		if w.name == "Deployment/"+service {
			return w
		}
	}
	require.Fail(t, "there is no Deployment of "+service)
	return workload{}
}

func TestAReplicaHasTimeToFinish(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, deployment := range of[*appsv1.Deployment](v) {
			require.Zero(t, deployment.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue(), deployment.Name)
			if deployment.Name == "ingress" {
				continue
			}
			settings := configMap(t, v, deployment.Name+"-config").Data
			drain, err := time.ParseDuration(settings["DRAIN_DELAY"])
			require.NoError(t, err)
			shutdown, err := time.ParseDuration(settings["SHUTDOWN_TIMEOUT"])
			require.NoError(t, err)
			grace := time.Duration(*deployment.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
			require.GreaterOrEqual(t, drain, 5*time.Second, "every proxy has to learn of it")
			require.GreaterOrEqual(t, shutdown, drain+10*time.Second, "the slowest request has to be answered after that")
			require.GreaterOrEqual(t, grace, shutdown+5*time.Second, "what is left is flushed after that")
			require.Nil(t, deployment.Spec.Template.Spec.Containers[0].Lifecycle, "the service drains by itself")
			require.Nil(t, deployment.Spec.Replicas, "the autoscaler owns that number")
			require.Len(t, deployment.Spec.Template.Spec.TopologySpreadConstraints, 2)
			for _, spread := range deployment.Spec.Template.Spec.TopologySpreadConstraints {
				require.Equal(t, deployment.Spec.Selector, spread.LabelSelector)
			}
		}
	})
}

// configMap finds one by its name before the hash.
func configMap(t *testing.T, v built, name string) *corev1.ConfigMap {
	t.Helper()
	hashed := regexp.MustCompile("^" + name + "(-[a-z0-9]{10})?$")
	for _, found := range of[*corev1.ConfigMap](v) {
		if hashed.MatchString(found.Name) {
			return found
		}
	}
	require.Fail(t, "there is no ConfigMap "+name)
	return nil
}

func TestSelectorsFindPods(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		// selected is what a selector finds: the workloads' names.
		selected := func(selector *metav1.LabelSelector) []string {
			var names []string
			match, err := metav1.LabelSelectorAsSelector(selector)
			require.NoError(t, err)
			for _, w := range workloads(v) {
				if match.Matches(labels.Set(w.template.Labels)) {
					names = append(names, w.name)
				}
			}
			return names
		}
		for _, deployment := range of[*appsv1.Deployment](v) {
			require.Equal(t, []string{"Deployment/" + deployment.Name}, selected(deployment.Spec.Selector))
		}
		for _, set := range of[*appsv1.StatefulSet](v) {
			require.Equal(t, []string{"StatefulSet/" + set.Name}, selected(set.Spec.Selector))
		}
		budgets := of[*policyv1.PodDisruptionBudget](v)
		require.Len(t, budgets, len(services()))
		for _, budget := range budgets {
			require.Equal(t, []string{"Deployment/" + budget.Name}, selected(budget.Spec.Selector), "a budget of jobs would keep nodes from draining")
		}
		for _, service := range of[*corev1.Service](v) {
			found := selected(&metav1.LabelSelector{MatchLabels: service.Spec.Selector})
			require.Len(t, found, 1, service.Name)
			require.Contains(t, []string{"Deployment/" + service.Name, "StatefulSet/" + service.Name}, found[0])
			for _, w := range workloads(v) {
				if w.name != found[0] {
					continue
				}
				ports := map[string]bool{}
				for _, port := range w.container(t).Ports {
					ports[port.Name] = true
				}
				for _, port := range service.Spec.Ports {
					require.True(t, ports[port.TargetPort.StrVal], "%s: %s", service.Name, port.TargetPort.StrVal)
				}
			}
		}
		scalers := of[*autoscalingv2.HorizontalPodAutoscaler](v)
		require.Len(t, scalers, len(services()))
		for _, scaler := range scalers {
			require.Equal(t, "Deployment", scaler.Spec.ScaleTargetRef.Kind)
			require.Equal(t, scaler.Name, scaler.Spec.ScaleTargetRef.Name)
			server(t, v, scaler.Name)
		}
	})
}

// What README.md has deleted before the next release is applied: a Job's image cannot be changed.
func TestEveryJobOfAReleaseIsDeletedBeforeTheNext(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	commands := regexp.MustCompile(`kubectl -n agentidp delete job -l '([^']+)'`).FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, commands)
	for _, command := range commands {
		selector, err := labels.Parse(command[1])
		require.NoError(t, err)
		everyVariant(t, func(t *testing.T, v built) {
			require.Len(t, of[*batchv1.Job](v), len(services())+1)
			for _, job := range of[*batchv1.Job](v) {
				require.True(t, selector.Matches(labels.Set(job.Labels)), "%s does not find %s", command[0], job.Name)
			}
		})
	}
}

func TestAnObjectSaysWhoseItIs(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, v built) {
		for _, object := range v.objects {
			meta, ok := object.(metav1.Object)
			require.True(t, ok)
			require.Equal(t, "agentidp", meta.GetLabels()["app.kubernetes.io/part-of"], "%T %s", object, meta.GetName())
			if _, cluster := object.(*corev1.Namespace); !cluster {
				require.Equal(t, "agentidp", meta.GetNamespace(), "%T %s", object, meta.GetName())
				require.NotEmpty(t, meta.GetLabels()["app.kubernetes.io/name"], "%T %s: apply -l would leave it out", object, meta.GetName())
			}
		}
	})
}
