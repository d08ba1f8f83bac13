'use strict';
// Finds the function that a handler names: `folder/module.object.function`.

const fs = require('node:fs');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const { RuntimeError } = require('./errors.js');

/// The module up to the first dot, what it exports behind it.
const SHAPE = /^([^.]+)\.(.+)$/;

/// The handler's function, from the module that it is in.
async function load(taskRoot, name) {
  if (name.split('/').includes('..')) {
    throw new RuntimeError('MalformedHandlerName', `'${name}' is not a valid handler name. It leads out of the function.`);
  }
  const [, module, exported] = SHAPE.exec(path.basename(name)) ?? [];
  if (!module) throw new RuntimeError('MalformedHandlerName', 'Bad handler');
  const loaded = await loadModule(taskRoot, path.join(path.dirname(name), module));
  const handler = exported.split('.').reduce((object, member) => object?.[member], loaded);
  if (handler === undefined) throw new RuntimeError('HandlerNotFound', `${name} is undefined or not exported`);
  if (typeof handler !== 'function') throw new RuntimeError('HandlerNotFound', `${name} is not a function`);
  return handler;
}

async function loadModule(taskRoot, module) {
  try {
    const file = path.resolve(taskRoot, module);
    const found = [file, `${file}.js`, `${file}.mjs`, `${file}.cjs`].find(isFile);
    if (found && isEsModule(found)) return await import(pathToFileURL(found).href);
    // A folder with an index, or a package.
    return require(found ?? require.resolve(`./${module}`, { paths: [taskRoot] }));
  } catch (error) {
    throw explained(error, taskRoot, module);
  }
}

/// A function may be a package of its own, found as any other.
function explained(error, taskRoot, module) {
  if (error instanceof SyntaxError) {
    const wrong = new RuntimeError('UserCodeSyntaxError', `${error.name}: ${error.message}`, error);
    wrong.stack = error.stack;
    return wrong;
  }
  if (error?.code === 'MODULE_NOT_FOUND' || error?.code === 'ERR_MODULE_NOT_FOUND') {
    const message = String(error.message).replace(`'./${path.normalize(module)}'`, `'${module}'`);
    return new RuntimeError('ImportModuleError', `Error: ${message.replace(/\nRequire stack:[^]*/, '')}`, error);
  }
  return error;
}

function isFile(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.isFile() ?? false;
}

/// By its name, or by the package that it is in.
function isEsModule(file) {
  if (file.endsWith('.mjs')) return true;
  if (!file.endsWith('.js')) return false;
  for (let folder = path.dirname(file); ; folder = path.dirname(folder)) {
    const description = path.join(folder, 'package.json');
    if (isFile(description)) return JSON.parse(fs.readFileSync(description, 'utf8')).type === 'module';
    if (folder === path.dirname(folder) || path.basename(folder) === 'node_modules') return false;
  }
}

module.exports = { load };
