#!/bin/bash
# Runs once, when the database is made: a schema per service that <service>_owner owns and <service>_app may use, and nobody else
# gets at. The passwords (REGISTRY_OWNER_PASSWORD, REGISTRY_APP_PASSWORD, ...) come from the environment and go to psql on its
# standard input, so that no command line shows them.
set -euo pipefail

quoted() { printf "'%s'" "${1//\'/\'\'}"; }

{
  echo "REVOKE ALL ON DATABASE \"$POSTGRES_DB\" FROM PUBLIC;"
  echo 'REVOKE ALL ON SCHEMA public FROM PUBLIC;'
  for service in registry credentials token audit; do
    for role in owner app; do
      password=${service^^}_${role^^}_PASSWORD
      echo "CREATE ROLE ${service}_$role LOGIN PASSWORD $(quoted "${!password:?}");"
      echo "GRANT CONNECT ON DATABASE \"$POSTGRES_DB\" TO ${service}_$role;"
    done
    echo "CREATE SCHEMA $service AUTHORIZATION ${service}_owner;"
    echo "REVOKE ALL ON SCHEMA $service FROM PUBLIC;"
    echo "GRANT USAGE ON SCHEMA $service TO ${service}_app;"
  done
} | psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d "$POSTGRES_DB"
