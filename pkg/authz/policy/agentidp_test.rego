package agentidp.authz_test

import data.agentidp.authz

me := "0190a7c0-0000-7000-8000-000000000001"

other := "0190a7c0-0000-7000-8000-000000000002"

third := "0190a7c0-0000-7000-8000-000000000003"

bearer(method, path, scopes) := {
	"method": method,
	"path": path,
	"authentication": "bearer",
	"scopes": scopes,
	"sub": me,
	"owner": "team-a",
}

about(request, resource) := object.union(request, {"resource": resource})

client(path) := {"method": "POST", "path": path, "authentication": "client", "scopes": [], "sub": me}

others_agent := {"agentId": other, "owner": "team-b", "registeredBy": third}

agent_path := sprintf("/api/v1/agents/%s", [other])

credentials_path := sprintf("%s/credentials", [agent_path])

keys_path := sprintf("%s/keys", [agent_path])

every_scope_but(scope) := [s | some s in {"agents:read", "agents:write", "tokens:read", "audit:read", "resume:read"}; s != scope]

# --- One scope opens each route, and all others together do not ---------------------------------------------------------

scoped_requests := [
	["GET", "/api/v1/agents", "agents:read", {}],
	["GET", agent_path, "agents:read", others_agent],
	["POST", "/api/v1/agents", "agents:write", {}],
	["PATCH", agent_path, "agents:write", {"agentId": me}],
	["DELETE", agent_path, "agents:write", {"agentId": me}],
	["GET", keys_path, "agents:read", others_agent],
	["PUT", keys_path, "agents:write", {"agentId": me}],
	["DELETE", keys_path, "agents:write", {"agentId": me}],
	["GET", credentials_path, "agents:write", {"agentId": me}],
	["POST", credentials_path, "agents:write", {"agentId": me}],
	["POST", sprintf("%s/%s/rotate", [credentials_path, third]), "agents:write", {"agentId": me}],
	["DELETE", sprintf("%s/%s", [credentials_path, third]), "agents:write", {"agentId": me}],
	["POST", "/api/v1/token/introspect", "tokens:read", {}],
	["GET", "/api/v1/audit", "audit:read", {}],
	["GET", sprintf("/api/v1/audit/%s", [third]), "audit:read", {}],
]

test_the_scope_of_a_route_opens_it if {
	every r in scoped_requests {
		authz.allow with input as about(bearer(r[0], r[1], [r[2]]), r[3])
		authz.reason == "" with input as about(bearer(r[0], r[1], [r[2]]), r[3])
		authz.scope == "" with input as about(bearer(r[0], r[1], [r[2]]), r[3])
	}
}

test_all_other_scopes_do_not_open_it if {
	every r in scoped_requests {
		not authz.allow with input as about(bearer(r[0], r[1], every_scope_but(r[2])), r[3])
		authz.scope == r[2] with input as about(bearer(r[0], r[1], every_scope_but(r[2])), r[3])
		authz.reason == sprintf("scope %s is required", [r[2]]) with input as about(bearer(r[0], r[1], every_scope_but(r[2])), r[3])
	}
}

test_agents_admin_alone_opens_every_route_for_any_agent if {
	every r in scoped_requests {
		authz.allow with input as about(bearer(r[0], r[1], ["agents:admin"]), others_agent)
	}
}

test_no_scope_opens_nothing if {
	every r in scoped_requests {
		not authz.allow with input as about(bearer(r[0], r[1], []), r[3])
		not authz.allow with input as about(object.remove(bearer(r[0], r[1], []), ["scopes"]), r[3])
	}
}

test_client_authentication_opens_only_the_token_endpoints if {
	every r in scoped_requests {
		allowed := r[1] == "/api/v1/token/introspect"
		authz.allow == allowed with input as object.union(about(bearer(r[0], r[1], []), r[3]), {"authentication": "client"})
	}
}

test_scopes_do_not_help_without_a_known_authentication if {
	every authentication in ["", "basic", null] {
		not authz.allow with input as object.union(bearer("GET", "/api/v1/agents", ["agents:admin"]), {"authentication": authentication})
	}
	not authz.allow with input as object.remove(bearer("GET", "/api/v1/agents", ["agents:admin"]), ["authentication"])
}

# --- Default deny ------------------------------------------------------------------------------------------------------

unknown_requests := [
	["PUT", "/api/v1/agents"],
	["PUT", agent_path],
	["POST", agent_path],
	["POST", keys_path],
	["PATCH", keys_path],
	["GET", sprintf("%s/%s", [keys_path, third])],
	["PUT", sprintf("%s/%s", [keys_path, third])],
	["PUT", credentials_path],
	["PATCH", credentials_path],
	["PATCH", "/api/v1/agents"],
	["DELETE", "/api/v1/agents"],
	["GET", sprintf("%s/%s", [credentials_path, third])],
	["POST", sprintf("%s/%s", [credentials_path, third])],
	["POST", sprintf("%s/%s/restore", [credentials_path, third])],
	["GET", sprintf("%s/secrets", [agent_path])],
	["GET", "/api/v1/token/introspect"],
	["GET", "/api/v1/token/revoke"],
	["POST", "/api/v1/audit"],
	["DELETE", sprintf("/api/v1/audit/%s", [third])],
	["PATCH", sprintf("/api/v1/audit/%s", [third])],
	["DELETE", credentials_path],
	["DELETE", sprintf("%s/%s/rotate", [credentials_path, third])],
	["GET", sprintf("%s/%s/rotate", [credentials_path, third])],
	["POST", sprintf("%s/%s/rotate/now", [credentials_path, third])],
	["GET", sprintf("/api/v1/owners/%s/credentials", [third])],
	["GET", "/apis/v1/agents"],
	["GET", "/api/v2/agents"],
	["GET", "/agents"],
	["GET", "/api/v1/agents/"],
	["GET", "/api/v1//agents"],
	["GET", "/api/v1"],
	["GET", "/"],
	["GET", ""],
]

test_what_no_rule_names_is_denied_even_to_an_operator if {
	every r in unknown_requests {
		not authz.allow with input as bearer(r[0], r[1], ["agents:admin"])
		authz.reason == "no rule allows this request" with input as bearer(r[0], r[1], ["agents:admin"])
	}
}

test_an_empty_input_is_denied if {
	not authz.allow with input as {}
	authz.reason != "" with input as {}
}

# --- Changing agents ---------------------------------------------------------------------------------------------------

# The keys of an agent are a part of it.
changes := [["PATCH", agent_path], ["DELETE", agent_path], ["PUT", keys_path], ["DELETE", keys_path]]

writer(change) := bearer(change[0], change[1], ["agents:write"])

test_a_writer_changes_itself if {
	every c in changes { authz.allow with input as about(writer(c), {"agentId": me, "owner": "team-b", "registeredBy": third}) }
}

test_a_writer_changes_what_it_registered if {
	every c in changes { authz.allow with input as about(writer(c), {"agentId": other, "owner": "team-b", "registeredBy": me}) }
}

test_a_writer_changes_agents_of_its_owner if {
	every c in changes { authz.allow with input as about(writer(c), {"agentId": other, "owner": "team-a", "registeredBy": third}) }
}

test_a_writer_does_not_change_other_agents if {
	every c in changes {
		not authz.allow with input as about(writer(c), others_agent)
		authz.scope == "" with input as about(writer(c), others_agent)
		contains(authz.reason, "same owner") with input as about(writer(c), others_agent)
	}
}

test_an_agent_that_nobody_registered_is_not_everybodys if {
	every c in changes {
		caller := object.union(writer(c), {"sub": "", "owner": ""})
		not authz.allow with input as about(caller, {"agentId": other})
		not authz.allow with input as about(caller, {"agentId": "", "owner": "", "registeredBy": ""})
	}
}

test_an_agent_that_was_not_looked_up_is_protected if {
	every c in changes {
		not authz.allow with input as writer(c)
		not authz.allow with input as about(writer(c), {})
		not authz.allow with input as about(writer(c), null)
		not authz.allow with input as about(writer(c), {"agentId": other, "exists": true})
	}
}

test_an_agent_that_does_not_exist_is_not_protected if {
	every c in changes {
		authz.allow with input as about(writer(c), {"agentId": other, "exists": false})
		not authz.allow with input as about(bearer(c[0], c[1], ["agents:read"]), {"agentId": other, "exists": false})
	}
}

# --- Changing operators ------------------------------------------------------------------------------------------------

an_operator := {"agentId": other, "owner": "team-a", "registeredBy": me, "mayRequest": ["agents:read", "agents:admin"]}

test_a_writer_changes_agents_that_may_request_more_than_it_has if {
	resource := object.union(an_operator, {"mayRequest": ["agents:read", "audit:read"]})
	every c in changes { authz.allow with input as about(writer(c), resource) }
}

test_operators_are_changed_by_themselves_or_another_operator_only if {
	every c in changes {
		every_other_scope := bearer(c[0], c[1], every_scope_but(""))
		not authz.allow with input as about(every_other_scope, an_operator)
		contains(authz.reason, "agents:admin") with input as about(every_other_scope, an_operator)
		authz.scope == "" with input as about(every_other_scope, an_operator)
		authz.allow with input as about(bearer(c[0], c[1], ["agents:admin"]), an_operator)
		authz.allow with input as about(writer(c), object.union(an_operator, {"agentId": me}))
	}
}

test_an_operator_is_no_operator_before_it_is_one if {
	resource := object.union(an_operator, {"mayRequest": []})
	authz.allow with input as about(bearer("PATCH", agent_path, ["agents:write"]), object.union(resource, {"allowedScopes": ["agents:write"]}))
	authz.allow with input as about(bearer("PUT", keys_path, ["agents:write"]), object.union(resource, {"allowedScopes": ["agents:admin"]}))
}

test_operators_are_read_by_every_reader if {
	authz.allow with input as about(bearer("GET", agent_path, ["agents:read"]), an_operator)
	authz.allow with input as about(bearer("GET", keys_path, ["agents:read"]), an_operator)
}

# --- Giving scopes -----------------------------------------------------------------------------------------------------

registering(scopes, allowed) := about(bearer("POST", "/api/v1/agents", scopes), {"allowedScopes": allowed})

changing(scopes, allowed) := about(bearer("PATCH", agent_path, scopes), {"agentId": me, "allowedScopes": allowed})

test_scopes_of_ones_own_can_be_given if {
	authz.allow with input as registering(["agents:write", "audit:read"], ["audit:read"])
	authz.allow with input as registering(["agents:write"], [])
	authz.allow with input as changing(["agents:write", "audit:read"], ["audit:read", "agents:write"])
}

test_scopes_beyond_ones_own_cannot_be_given if {
	not authz.allow with input as registering(["agents:write"], ["agents:write", "audit:read"])
	not authz.allow with input as changing(["agents:write"], ["audit:read"])
	contains(authz.reason, "audit:read") with input as registering(["agents:write"], ["agents:write", "audit:read"])
	not contains(authz.reason, "agents:write") with input as registering(["agents:write"], ["agents:write", "audit:read"])
}

test_an_operator_gives_every_system_scope if {
	authz.allow with input as registering(["agents:admin"], ["agents:read", "agents:write", "tokens:read", "audit:read", "agents:admin"])
}

test_only_an_operator_gives_agents_admin if {
	not authz.allow with input as registering(["agents:read", "agents:write", "tokens:read", "audit:read"], ["agents:admin"])
}

test_an_operator_does_not_give_what_is_no_scope_of_it if {
	not authz.allow with input as registering(["agents:admin"], ["resume:read"])
}

test_scopes_matter_only_where_they_are_given if {
	authz.allow with input as about(bearer("GET", agent_path, ["agents:read"]), {"allowedScopes": ["agents:admin"]})
}

test_scopes_cannot_be_given_to_others_agents if {
	not authz.allow with input as about(bearer("PATCH", agent_path, ["agents:write"]), object.union(others_agent, {"allowedScopes": ["agents:write"]}))
}

# --- Credentials -------------------------------------------------------------------------------------------------------

test_credentials_of_another_agent_are_closed_even_to_who_registered_it if {
	resource := {"agentId": other, "owner": "team-a", "registeredBy": me}
	not authz.allow with input as about(bearer("POST", credentials_path, ["agents:write"]), resource)
	not authz.allow with input as about(bearer("GET", credentials_path, ["agents:read", "agents:write"]), resource)
	contains(authz.reason, "credentials") with input as about(bearer("POST", credentials_path, ["agents:write"]), resource)
}

test_credentials_of_an_agent_that_does_not_exist_are_closed_too if {
	not authz.allow with input as about(bearer("GET", credentials_path, ["agents:write"]), {"agentId": other, "exists": false})
	not authz.allow with input as bearer("GET", credentials_path, ["agents:write"])
}

# --- Tokens ------------------------------------------------------------------------------------------------------------

revoke_path := "/api/v1/token/revoke"

test_any_token_revokes_its_agents_own if {
	authz.allow with input as about(bearer("POST", revoke_path, []), {"agentId": me})
	authz.allow with input as about(client(revoke_path), {"agentId": me})
}

test_what_is_no_token_of_anybody_can_be_revoked_by_anybody if {
	authz.allow with input as bearer("POST", revoke_path, [])
	authz.allow with input as client(revoke_path)
}

test_tokens_of_others_are_revoked_by_an_operator_only if {
	authz.allow with input as about(bearer("POST", revoke_path, ["agents:admin"]), {"agentId": other})
	not authz.allow with input as about(bearer("POST", revoke_path, every_scope_but("")), {"agentId": other})
	not authz.allow with input as about(client(revoke_path), {"agentId": other})
	authz.scope == "agents:admin" with input as about(bearer("POST", revoke_path, []), {"agentId": other})
	authz.scope == "" with input as about(client(revoke_path), {"agentId": other})
	contains(authz.reason, "agents:admin") with input as about(client(revoke_path), {"agentId": other})
}

test_a_client_introspects_any_token if {
	authz.allow with input as about(client("/api/v1/token/introspect"), {"agentId": other})
}
