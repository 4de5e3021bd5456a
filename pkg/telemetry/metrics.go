package telemetry

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the metrics that every service has. A service registers those
// that it alone has on Registry.
type Metrics struct {
	// Registry is this service's own, so that several services can live in one process.
	Registry *prometheus.Registry
	// HTTPRequests has labels method, path (the route's template) and status_code.
	HTTPRequests *prometheus.CounterVec
	// HTTPDuration has labels method and path, in seconds.
	HTTPDuration *prometheus.HistogramVec
	// RateLimitRejections counts answers 429.
	RateLimitRejections prometheus.Counter
	// DBQuery has the label operation: the name of the SQL statement; in seconds.
	DBQuery *prometheus.HistogramVec
	// RedisCommand has the label command, in seconds.
	RedisCommand *prometheus.HistogramVec
	// OutboxPending is the number of events that wait to be published.
	OutboxPending prometheus.Gauge
	// OutboxOldest is the age of the one of them that waits longest, in seconds; 0 if none does.
	OutboxOldest prometheus.Gauge
	// Ready is 1 while the service is ready to be sent requests, else 0.
	Ready prometheus.Gauge
	// DependencyUp has the label dependency (postgres, redis, nats, and what a service alone works with): 1 while it answers, else 0.
	DependencyUp *prometheus.GaugeVec
	// CacheRequests has labels cache and result (hit or miss).
	CacheRequests *prometheus.CounterVec
}

// Seconds are the buckets of histograms of time: from half a millisecond, a warm token, to ten seconds, a call that timed out.
func Seconds() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

// NewMetrics registers the common metrics, and those of the Go runtime and
// the process, in a fresh registry.
func NewMetrics() *Metrics {
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: Seconds()}, labels)
	}
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		HTTPRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentidp_http_requests_total", Help: "HTTP requests answered.",
		}, []string{"method", "path", "status_code"}),
		HTTPDuration: histogram("agentidp_http_request_duration_seconds", "Time to answer an HTTP request.", "method", "path"),
		RateLimitRejections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "agentidp_rate_limit_rejections_total", Help: "Requests refused by a rate limit.",
		}),
		DBQuery:      histogram("agentidp_db_query_duration_seconds", "Time of a Postgres statement.", "operation"),
		RedisCommand: histogram("agentidp_redis_command_duration_seconds", "Time of a Redis command.", "command"),
		OutboxPending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentidp_outbox_pending", Help: "Events that wait to be published.",
		}),
		OutboxOldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentidp_outbox_oldest_seconds", Help: "Age of the event that waits longest to be published, 0 if none does.",
		}),
		Ready: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentidp_ready", Help: "1 while the service is ready to be sent requests, else 0.",
		}),
		DependencyUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "agentidp_dependency_up", Help: "1 while a server that the service works with answers, else 0.",
		}, []string{"dependency"}),
		CacheRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentidp_cache_requests_total", Help: "Lookups in a cache, by result.",
		}, []string{"cache", "result"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentidp_build_info", Help: "Always 1; the labels tell what is running.",
		ConstLabels: prometheus.Labels{"version": Version(), "goversion": runtime.Version()},
	})
	build.Set(1)
	m.Registry.MustRegister(
		build,
		m.HTTPRequests, m.HTTPDuration, m.RateLimitRejections, m.DBQuery, m.RedisCommand, m.OutboxPending, m.OutboxOldest,
		m.Ready, m.DependencyUp, m.CacheRequests,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}
