package rig

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// settings are the environment of a service, as an operator would give it; where nothing is said, its defaults hold.
func (r *Rig) settings(name string, extra map[string]string) []string {
	s := r.services[name]
	program, replica := split(name)
	peer := func(program string) string {
		if r.proxy != nil {
			return "http://" + r.proxy.inside[program]
		}
		return r.Internal(program + replica)
	}
	values := map[string]string{
		"PATH":                     os.Getenv("PATH"),
		"PUBLIC_ADDR":              s.public,
		"INTERNAL_ADDR":            s.internal,
		"INTERNAL_API_TOKEN":       r.secret,
		"DATABASE_URL":             r.postgres.URL(program+"_app", r.password, databaseName),
		"MIGRATE_DATABASE_URL":     r.postgres.URL(program+"_owner", r.password, databaseName),
		"REDIS_URL":                r.redis.URL(),
		"NATS_URL":                 r.natsURL,
		"ISSUER":                   r.Issuer(),
		"REGISTRY_INTERNAL_URL":    peer("registry"),
		"CREDENTIALS_INTERNAL_URL": peer("credentials"),
		"TOKEN_INTERNAL_URL":       peer("token"),
		"KEY_ENCRYPTION_KEY":       r.key,
		"AUDIT_LOG_KEY":            r.logKey,
		"DRAIN_DELAY":              "0s",
		"TRUSTED_PROXIES":          loopback + "/32",
		"PPROF_ENABLED":            "true",
	}
	for _, more := range []map[string]string{LimitsOff(), r.common, extra} {
		maps.Copy(values, more)
	}
	environ := make([]string, 0, len(values))
	for name, value := range values {
		environ = append(environ, name+"="+value)
	}
	return environ
}

// LimitsOff are the settings without any limit of a rate, a quota or a number.
func LimitsOff() map[string]string {
	return map[string]string{
		"RATE_LIMIT_PER_MINUTE": "0", "FREE_TIER_MAX_MONTHLY_TOKENS": "0", "FREE_TIER_MAX_AGENTS": "0",
	}
}

// LimitsOn are the settings with every limit counted, and none of them reached.
func LimitsOn() map[string]string {
	return map[string]string{"RATE_LIMIT_PER_MINUTE": "100000000", "FREE_TIER_MAX_MONTHLY_TOKENS": "1000000000"}
}

// Issuer of the tokens.
func (r *Rig) Issuer() string {
	if r.proxy != nil {
		return "http://" + r.proxy.world
	}
	return "http://" + r.services["token"].public
}

// Internal is the base URL of a service's internal port.
func (r *Rig) Internal(name string) string {
	if r.tls != nil {
		return "https://" + r.services[name].internal
	}
	return "http://" + r.services[name].internal
}

// Secret is the token of the internal ports, as long as no settings say another.
func (r *Rig) Secret() string { return r.secret }

// Public is where a service answers the world, host:port.
func (r *Rig) Public(name string) string { return r.services[name].public }

// Instances are the names of the replicas of these services that there are now, of all for none.
func (r *Rig) Instances(services ...string) []string {
	if len(services) == 0 {
		return slices.Clone(r.names)
	}
	var names []string
	for _, service := range services {
		for _, name := range r.names {
			if Program(name) == service {
				names = append(names, name)
			}
		}
	}
	return names
}

// Names of so many replicas of each of these services, of all for none. The first is called as the service is.
func Names(replicas int, services ...string) []string {
	if len(services) == 0 {
		services = Services()
	}
	names := make([]string, 0, len(services)*replicas)
	for number := 1; number <= replicas; number++ {
		for _, name := range services {
			names = append(names, numbered(name, number))
		}
	}
	return names
}

func numbered(service string, replica int) string {
	if replica == 1 {
		return service
	}
	return service + "-" + strconv.Itoa(replica)
}

// Program is the service that a replica is one of.
func Program(instance string) string {
	program, _ := split(instance)
	return program
}

// split tells the program of a replica, and what its name has behind that; it calls those of its peers with the same.
func split(instance string) (program, replica string) {
	program, number, found := strings.Cut(instance, "-")
	if found {
		replica = "-" + number
	}
	return program, replica
}
