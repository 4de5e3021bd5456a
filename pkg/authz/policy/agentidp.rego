# Who may do what. The service asks for `allow` (boolean), `reason` (string, shown to the client when allow is false) and
# `scope` (string: the scope that lacks, or "").
#
# input.method          HTTP method
# input.path            path with its prefix, "/api/v1/agents"
# input.authentication  "bearer" (a verified access token) or "client" (by secret or assertion, at the token endpoints)
# input.scopes          the token's scopes; none with client authentication
# input.sub             id of the calling agent
# input.owner           owner of the calling agent
# input.resource        what the request is about, each field only where it applies and is known:
#   agentId             the agent; for a revocation the one the token belongs to
#   owner               its owner
#   registeredBy        id of the agent that registered it
#   exists              false if there is no such agent: nothing is protected then, and the answer is 404
#   mayRequest          the system scopes that the agent may request as it is now
#   allowedScopes       the scopes that a registration or change wants to give to the agent
package agentidp.authz

system_scopes := {"agents:read", "agents:write", "tokens:read", "audit:read", "agents:admin"}

default allow := false

allow if {
	action != "none"
	count(denials) == 0
}

# One reason is given: of all that is missing the scope, since the rest is of no use without it.
default reason := ""

reason := "no rule allows this request" if action == "none"

reason := sprintf("scope %s is required", [scope]) if scope != ""

reason := min(denials) if {
	action != "none"
	scope == ""
}

default scope := ""

scope := missing_scope

# --- What is asked for -------------------------------------------------------------------------------------------------

segments := split(trim_prefix(input.path, "/"), "/")

route := array.slice(segments, 2, count(segments)) if {
	segments[0] == "api"
	segments[1] == "v1"
	every segment in segments { segment != "" }
}

default action := "none"

action := "read agents" if {
	input.method == "GET"
	route[0] == "agents"
	count(route) <= 2
}

action := "read agents" if {
	input.method == "GET"
	route[0] == "agents"
	route[2] == "keys"
	count(route) == 3
}

action := "register" if {
	input.method == "POST"
	route == ["agents"]
}

action := "change" if {
	input.method in {"PATCH", "DELETE"}
	route[0] == "agents"
	count(route) == 2
}

action := "change keys" if {
	input.method in {"PUT", "DELETE"}
	route[0] == "agents"
	route[2] == "keys"
	count(route) == 3
}

action := "manage credentials" if {
	route[0] == "agents"
	route[2] == "credentials"
	credentials_call
}

credentials_call if {
	input.method in {"GET", "POST"}
	count(route) == 3
}

credentials_call if {
	input.method == "DELETE"
	count(route) == 4
}

credentials_call if {
	input.method == "POST"
	count(route) == 5
	route[4] == "rotate"
}

action := "introspect" if {
	input.method == "POST"
	route == ["token", "introspect"]
}

action := "revoke" if {
	input.method == "POST"
	route == ["token", "revoke"]
}

action := "audit" if {
	input.method == "GET"
	route[0] == "audit"
}

# --- Who asks ----------------------------------------------------------------------------------------------------------

granted := {s | some s in object.get(input, "scopes", [])}

admin if "agents:admin" in granted

# agents:admin implies every system scope.
effective := granted | system_scopes if admin

else := granted

authentication := object.get(input, "authentication", "")

resource := r if {
	r := object.get(input, "resource", {})
	is_object(r)
} else := {}

# --- What it needs -----------------------------------------------------------------------------------------------------

required_scope := {
	"read agents": "agents:read",
	"register": "agents:write",
	"change": "agents:write",
	"change keys": "agents:write",
	"manage credentials": "agents:write",
	"introspect": "tokens:read",
	"audit": "audit:read",
}[action]

missing_scope := needed if {
	authentication == "bearer"
	needed := required_scope
	not needed in effective
}

missing_scope := "agents:admin" if {
	authentication == "bearer"
	revokes_for_another
	not admin
}

denials contains "an access token is required" if {
	not authentication in authentications
}

# A client that has proved who it is may ask about tokens without having one itself.
authentications := {"bearer", "client"} if action in {"introspect", "revoke"}

else := {"bearer"}

denials contains "a scope is missing" if missing_scope

denials contains "the agent is neither the caller, nor registered by it, nor of the same owner" if {
	action in {"change", "change keys"}
	resource_protected
	not admin
	not own_agent
	not registered_by_caller
	not same_owner
}

# An agent says itself who its owner is, so that is no claim on an operator: not on its scopes, its life, nor its keys, which
# are as good as its secret.
denials contains "only the agent itself or a holder of agents:admin may change an agent that may request agents:admin" if {
	action in {"change", "change keys"}
	"agents:admin" in object.get(resource, "mayRequest", [])
	not admin
	not own_agent
}

denials contains "only the agent itself or a holder of agents:admin may manage its credentials" if {
	action == "manage credentials"
	not admin
	not own_agent
}

denials contains "only a holder of agents:admin may revoke a token of another agent" if {
	revokes_for_another
	not admin
}

denials contains reason if {
	action in {"register", "change"}
	beyond := {s | some s in object.get(resource, "allowedScopes", [])} - effective
	count(beyond) > 0
	reason := sprintf("allowedScopes goes beyond the caller's scopes: %s", [concat(" ", sort(beyond))])
}

# Nothing is protected where nothing is; a resource that was not looked up is protected.
resource_protected if object.get(resource, "exists", true)

# A token that is not one of ours, or has expired, belongs to nobody.
revokes_for_another if {
	action == "revoke"
	object.get(resource, "agentId", "") != ""
	not own_agent
}

own_agent if {
	input.sub != ""
	resource.agentId == input.sub
}

registered_by_caller if {
	input.sub != ""
	resource.registeredBy == input.sub
}

same_owner if {
	input.owner != ""
	resource.owner == input.owner
}
