# OpenBao for the profile `vault` of docker-compose.yml: it keeps agents' secrets, unseals itself with OPENBAO_SEAL_KEY, and at its first start
# makes the mount, the policy and the one token that there is. Its root token is revoked then; nobody is left who may change it.
# One server, plain HTTP on the inner network: for one machine, like all of this.
default_lease_ttl = "87600h"
max_lease_ttl     = "87600h"
api_addr          = "http://vault:8200"
cluster_addr      = "http://127.0.0.1:8201"

listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true
}

storage "raft" {
  path    = "/openbao/file"
  node_id = "vault"
}

seal "static" {
  current_key_id = "compose-1"
  current_key    = "env://OPENBAO_SEAL_KEY"
}

initialize "agentidp" {
  request "mount" {
    operation = "update"
    path      = "sys/mounts/agentidp"
    data = {
      type    = "kv"
      options = { version = "2" }
    }
  }

  # services/credentials/README.md tells what for.
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/agentidp"
    data = {
      policy = <<-EOT
        path "agentidp/data/agentidp/*" {
          capabilities = ["create", "update", "read"]
        }
        path "agentidp/destroy/agentidp/*" {
          capabilities = ["update"]
        }
        path "agentidp/metadata/agentidp/*" {
          capabilities = ["delete"]
        }
        path "auth/token/lookup-self" {
          capabilities = ["read"]
        }
        path "auth/token/renew-self" {
          capabilities = ["update"]
        }
      EOT
    }
  }

  request "token" {
    operation = "update"
    path      = "auth/token/create-orphan"
    data = {
      id = {
        eval_source     = "env"
        eval_type       = "string"
        env_var         = "AGENTIDP_VAULT_TOKEN"
        require_present = true
      }
      policies          = ["agentidp"]
      no_default_policy = true
      period            = "87600h"
    }
  }

  # A mount that is so new may not take its settings yet; 10 versions are enough until somebody sees to it.
  request "versions" {
    operation     = "update"
    path          = "agentidp/config"
    allow_failure = true
    data = {
      max_versions = 100
    }
  }
}
