// Package httpapi is the registry over HTTP: its public routes and its internal ones, with what goes over the wire in
// either direction. It reads requests, asks the policy, calls package agent and writes what comes back. It decides
// nothing itself: no rule about agents stands here, and none about who may do what.
package httpapi

import (
	"github.com/gin-gonic/gin"

	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

const (
	agentsPath = "/api/v1/agents"
	agentParam = "agentId"
)

// Guard admits bearer tokens and asks the policy; *guard.Guard is one.
type Guard interface {
	Authenticate() gin.HandlerFunc
	Authorize(c *gin.Context, resource *authz.Resource) error
}

// Config is what the routes work with; every field is required.
type Config struct {
	Registry *agent.Registry
	Guard    Guard
}

type api struct {
	registry *agent.Registry
	guard    Guard
}

// Register puts the routes of this service on the server.
func Register(server *httpx.Server, cfg Config) {
	a := &api{registry: cfg.Registry, guard: cfg.Guard}
	agents := server.Public().Group(agentsPath, a.guard.Authenticate())
	agents.POST("", httpx.Handle(a.register))
	agents.GET("", httpx.Handle(a.list))
	agents.GET("/:"+agentParam, httpx.Handle(a.get))
	agents.PATCH("/:"+agentParam, httpx.Handle(a.change))
	agents.DELETE("/:"+agentParam, httpx.Handle(a.decommission))

	agents.PUT("/:"+agentParam+"/keys", httpx.Handle(a.setKeys))
	agents.GET("/:"+agentParam+"/keys", httpx.Handle(a.getKeys))
	agents.DELETE("/:"+agentParam+"/keys", httpx.Handle(a.removeKeys))

	internal := server.Internal()
	internal.GET(registryapi.AgentsPath, httpx.Handle(a.internalAgents))
	internal.GET(registryapi.CutoffsPath, httpx.Handle(a.internalCutoffs))
	internal.POST(registryapi.BootstrapPath, httpx.Handle(a.bootstrap))
}
