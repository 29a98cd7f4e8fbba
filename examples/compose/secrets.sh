#!/bin/sh
# Makes the secrets that compose.yaml names, below the directory in which it is run. What is there stays. Keep the directory to yourself:
# the containers run as other users, and read the files all the same.
set -eu
umask 022
mkdir -p -m 700 secrets
for name in redis peers s3; do
    [ -s "secrets/$name" ] || openssl rand -hex 32 > "secrets/$name"
done
printf '[default]\naws_access_key_id = weir\naws_secret_access_key = %s\n' "$(cat secrets/s3)" > secrets/credentials
