#!/bin/bash
# Runs once, when the database is made: a schema per service that <service>_owner owns and <service>_app may use, and nobody else
# gets at. The passwords (REGISTRY_OWNER_PASSWORD, REGISTRY_APP_PASSWORD, ...) come from the environment and go to psql on its
# standard input, so that no command line shows them. The statements are those of pkg/devservers; a test there compares them.
set -euo pipefail

for role in {REGISTRY,CREDENTIALS,TOKEN,AUDIT}_{OWNER,APP}; do
  password=${role}_PASSWORD
  : "${!password:?a role needs a password}" # before anything is made
done

literal() { printf "'%s'" "${1//\'/\'\'}"; }

{
  echo "REVOKE ALL ON DATABASE \"$POSTGRES_DB\" FROM PUBLIC;"
  echo 'REVOKE ALL ON SCHEMA public FROM PUBLIC;'
  for service in registry credentials token audit; do
    for role in owner app; do
      name=\"${service}_$role\"
      password=${service^^}_${role^^}_PASSWORD
      echo "DO \$do\$ BEGIN CREATE ROLE $name; EXCEPTION WHEN duplicate_object THEN NULL; END \$do\$;"
      echo "ALTER ROLE $name LOGIN PASSWORD $(literal "${!password}");"
      echo "GRANT CONNECT ON DATABASE \"$POSTGRES_DB\" TO $name;"
    done
    echo "GRANT \"${service}_owner\" TO CURRENT_USER;"
    echo "CREATE SCHEMA IF NOT EXISTS \"$service\" AUTHORIZATION \"${service}_owner\";"
    echo "REVOKE ALL ON SCHEMA \"$service\" FROM PUBLIC;"
    echo "GRANT USAGE ON SCHEMA \"$service\" TO \"${service}_app\";"
  done
} | psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d "$POSTGRES_DB"
